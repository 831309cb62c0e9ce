"""Runs the project as another user, who may not be able to read the checkout."""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

UNPRIVILEGED = 65534
"""The user "nobody", and the group "nogroup"."""

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


def as_nobody(work: Coroutine[object, object, None]) -> int:
    """Run a coroutine in a child that is an unprivileged user; 0 if nothing was raised."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
            os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
            asyncio.run(work)
            status = 0
        except BaseException:  # noqa: BLE001 - nothing may get out of a forked child
            import traceback

            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    work.close()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
