"""Which D-Bus library programs import."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_HIDDEN = "raise ImportError('this stands for a Python without dbus-next')\n"


def without_dbus_next(directory: Path) -> str:
    """A PYTHONPATH with which dbus-next cannot be imported, so that dbus-fast is used.

    Args:
        directory: an empty one, or the one of an earlier call.
    """
    hidden = directory / "dbus_next"
    hidden.mkdir(parents=True, exist_ok=True)
    for module in ("__init__.py", "errors.py"):
        (hidden / module).write_text(_HIDDEN)
    return str(directory)


def installed() -> list[str]:
    """The D-Bus libraries that this Python has, but those that `without_dbus_next` hides."""
    specs = {name: importlib.util.find_spec(name) for name in ("dbus_next", "dbus_fast")}
    origins = {name: spec.origin for name, spec in specs.items() if spec is not None}
    return [name for name, origin in origins.items() if origin and Path(origin).read_text() != _HIDDEN]
