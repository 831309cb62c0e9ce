"""What an administrator of a host does with kheadersd, from the start of the daemon on.

``python3 -m tests.support.host_session ROOT RELEASE DIRECTORY PROFILE=PROGRAM…`` runs on the host itself. It
needs nothing but what kheadersd does, and prints one JSON object: of the machine, of the headers of the
release below ROOT, and for each profile of the precompiled header. The programs are compiled to
DIRECTORY/<profile>.o.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.bus_configuration import bus_configuration

_ALL = """\
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
  </policy>
"""
_SECONDS = 1200
# An emulated compiler takes ten times as long.
_CONFIGURATION = "[Limits]\nExtractTimeout=20min\nCompileTimeout=20min\n"


def _start(directory: Path, root: str) -> list[subprocess.Popen[bytes]]:
    """A bus of its own and the daemon, which has told that it is ready."""
    configuration = directory / "bus.conf"
    configuration.write_text(bus_configuration(directory / "bus", _ALL))
    command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
    bus = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert bus.stdout is not None
    assert bus.stdout.readline()
    os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={directory}/bus"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(directory / "notify"))
        notify.settimeout(1)
        (directory / "kheadersd.conf").write_text(_CONFIGURATION)
        places = (f"--config={directory}/kheadersd.conf", f"--cache-directory={directory}/cache")
        daemon = subprocess.Popen(
            [sys.executable, "-m", "kheadersd", f"--root={root}", *places],
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")},
        )
        told = b""
        while b"READY=1" not in told:
            assert daemon.poll() is None
            with contextlib.suppress(TimeoutError):
                told = notify.recv(4096)
    return [daemon, bus]


def _ctl(*arguments: str) -> str:
    command = [sys.executable, "-m", "kheadersd.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout + done.stderr


def main(root: str, release: str, output: str, *programs: str) -> None:
    """Print what comes of it all."""
    result: dict[str, Any] = {"machine": platform.machine(), "python": platform.python_version()}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # compilers are run as another user
        started = _start(directory, root)
        try:
            result["headers"] = json.loads(_ctl("get", "--json", release))
            for each in programs:
                profile, _, program = each.partition("=")
                made = json.loads(_ctl("pch", "--json", profile, release))
                object_file = f"{output}/{profile}.o"
                options = (f"--release={release}", f"--profile={profile}", "--verbose", "-o", object_file)
                result[profile] = {"pch": made, "said": _ctl("cc", *options, program)}
        finally:
            for process in started:
                process.terminate()
                process.wait(_SECONDS)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
