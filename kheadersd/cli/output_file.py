# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file that kheadersctl cc writes: complete or not at all, and never through a symlink."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

_DEVICES = Path("/dev")


def put(new: Path, output: Path) -> None:
    """Copy ``new`` to ``output``, which may be on another file system. Blocking.

    A device is written to, also through a link in /dev such as /dev/stdout. Elsewhere a link is replaced, and
    the temporary name has random letters: in a directory such as /tmp, other users may have prepared links.

    Raises:
        OSError: ``output`` cannot be written.
    """
    if _is_device(output):
        with new.open("rb") as content, output.open("wb") as out:
            shutil.copyfileobj(content, out)
        return
    descriptor, temporary = tempfile.mkstemp(prefix=".", dir=output.parent)
    try:
        with new.open("rb") as content, open(descriptor, "wb") as out:
            shutil.copyfileobj(content, out)
            os.fchmod(descriptor, 0o666 & ~_umask())
        Path(temporary).replace(output)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def _is_device(output: Path) -> bool:
    """Whether ``output`` is a device, a pipe or the like, which is not replaced."""
    try:
        status = output.stat() if output.parent == _DEVICES else output.lstat()
    except OSError:
        return False
    return not (stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode))


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
