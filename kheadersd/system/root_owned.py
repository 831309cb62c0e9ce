"""Files that only root can have written.

Whoever can write to a directory can replace what is in it: a path is worth as much as all of its components,
and those of the links on the way.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..errors import InvalidArgs

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
