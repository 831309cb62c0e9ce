"""Files that only root can have written, and whether they are still what they were.

Whoever can write to a directory can replace what is in it: a path is worth as much as all of its components,
and those of the links on the way.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgs
from .files import opened

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Mapping

Stamp = tuple[int, ...] | None
"""What changes with a file: device, inode, size, and when it was changed last; None where there is none.

That time is the kernel's, and nobody can set it as he likes.
"""

_PIECE = 1 << 20  # bytes
_MAX_LINKS = 40  # as the kernel follows, path_resolution(7)


def trusted_path(path: Path) -> tuple[Path, list[Path]]:
    """Follow an absolute path step by step.

    Returns:
        Where it leads, without links; and all that it leads through: directories, links, and itself.

    Raises:
        InvalidArgs: a component belongs to another user than root, or others can write to it; the message
            names it. Or it is a loop of links.
        OSError: it leads nowhere.
    """
    at = Path("/")
    _check(path, at, at.lstat())
    through = [at]
    links = 0
    pending = list(reversed(path.parts[1:]))
    while pending:
        part = pending.pop()
        if part == "..":
            at = at.parent
            continue
        here = at / part
        status = here.lstat()
        _check(path, here, status)
        through.append(here)
        if not stat.S_ISLNK(status.st_mode):
            at = here
            continue
        links += 1
        if links > _MAX_LINKS:
            raise InvalidArgs(f"{path} is not used: it leads through more than {_MAX_LINKS} links")
        target = here.readlink()
        if target.is_absolute():
            at = Path("/")
        pending.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
    return at, through


def _check(path: Path, component: Path, status: os.stat_result) -> None:
    where = "it" if component == path else str(component)
    if status.st_uid != 0:
        raise InvalidArgs(f"{path} is not used: {where} belongs to the user {status.st_uid}, and not to root")
    # The mode of a link means nothing. An access control list shows in the group's bits.
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidArgs(f"{path} is not used: others than root can write to {where}")


def stamp(path: str) -> Stamp:
    """Of the file or directory, or of the link, that this path names."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)


def stamps_of(paths: Iterable[Path]) -> dict[str, Stamp]:
    return {str(path): stamp(str(path)) for path in paths}


def unchanged(stamps: Mapping[str, Stamp]) -> bool:
    """Whether all of them are what they were: one or two microseconds each."""
    return all(stamp(path) == was for path, was in stamps.items())


def _digest(path: str, cancelled: threading.Event) -> str:
    digest = hashlib.sha256()
    with opened(path) as (descriptor, _):
        while piece := os.read(descriptor, _PIECE):
            if cancelled.is_set():
                raise InterruptedError
            digest.update(piece)
    return digest.hexdigest()


class Contents:
    """The digests of files, each of which is read again only when it has changed."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Stamp, str]] = {}

    def digest(self, stamps: Mapping[str, Stamp], cancelled: threading.Event) -> str:
        """Of the names and contents of regular files: sha256, in hex. Blocks: 200 MB take half a second.

        Raises:
            OSError: one cannot be read.
            InterruptedError: ``cancelled`` was set.
        """
        whole = hashlib.sha256()
        for path in sorted(stamps):
            if cancelled.is_set():
                raise InterruptedError
            known = self._known.get(path)
            if known is None or known[0] != stamps[path]:
                known = stamps[path], _digest(path, cancelled)
                self._known[path] = known
            # Neither a name nor a digest has a zero byte in it.
            whole.update(f"{path}\0{known[1]}\0".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()
