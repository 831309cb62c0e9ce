"""Runs the project as another user, who may not be able to read the checkout."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2] / "kheadersd"


def as_user(user: str) -> list[str]:
    """The beginning of a command line: what follows runs as this user, in no group, and in /.

    The directory that the tests are run in may be one that only root can enter.
    """
    return ["env", "--chdir=/", "setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]


@functools.cache
def python_path() -> str:
    """A PYTHONPATH with a copy of the package that every user can read, kept until this process ends.

    The checkout itself may be below root's home, or made with a strict umask.
    """
    directory = Path(tempfile.mkdtemp(prefix="kheadersd-for-all-"))
    atexit.register(shutil.rmtree, directory)
    copy = directory / _PACKAGE.name
    shutil.copytree(_PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    directory.chmod(0o755)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return str(directory)
