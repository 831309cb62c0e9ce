"""The configuration of a message bus of a test's own."""

from __future__ import annotations

from pathlib import Path

_WHOLE = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
{rules}</busconfig>
"""


def bus_configuration(socket: Path, rules: str) -> str:
    """The configuration of a bus that listens on ``socket``.

    Args:
        rules: its policies and limits, in XML: lines.
    """
    return _WHOLE.format(socket=socket, rules=rules)
