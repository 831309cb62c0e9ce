# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths whose symlinks are followed step by step, below any root."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LINKS = 40
"""The kernel's own limit, MAXSYMLINKS; path_resolution(7)."""


def steps(path: Path, root: Path = Path("/"), *, strict: bool = True) -> Iterator[Path]:
    """Every directory, link and file that ``path`` leads through for a process whose ``/`` is ``root``.

    The last one is where it leads, without links. Each is yielded before the file system is asked what it is.

    Args:
        path: an absolute path that begins with ``root``.
        strict: whether all of it has to exist; what is missing is otherwise taken for a directory.

    Raises:
        OSError: a component does not exist (ENOENT) or is not a directory (ENOTDIR), or there are too many
            links (ELOOP).
    """
    at = root
    yield at
    pending = list(reversed(path.relative_to(root).parts))
    links = 0
    while pending:
        part = pending.pop()
        if part == "..":
            at = at.parent if at != root else root
            yield at
            continue
        here = at / part
        yield here
        try:
            is_link = stat.S_ISLNK(here.lstat().st_mode)
        except FileNotFoundError:
            if strict:
                raise
            is_link = False
        if not is_link:
            at = here
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = here.readlink()
        if target.is_absolute():
            at = root
            yield at
        pending.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))


def resolved(path: Path, root: Path = Path("/")) -> Path:
    """Where ``path`` leads, see `steps`, without links."""
    *_, last = steps(path, root)
    return last
