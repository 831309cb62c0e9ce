"""Which D-Bus library programs import."""

from __future__ import annotations

from pathlib import Path


def without_dbus_next(directory: Path) -> str:
    """A PYTHONPATH with which dbus-next cannot be imported, so that dbus-fast is used.

    Args:
        directory: an empty one, or the one of an earlier call.
    """
    hidden = directory / "dbus_next"
    hidden.mkdir(parents=True, exist_ok=True)
    for module in ("__init__.py", "errors.py"):
        (hidden / module).write_text("raise ImportError('this stands for a Python without dbus-next')\n")
    return str(directory)
