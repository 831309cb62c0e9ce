# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that only root can have written.

A user who can write to a directory can replace what is in it. So all components of a path are checked, and
all of the links on the way.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ..errors import InvalidArgs
from .links import MAX_LINKS, steps


def trusted_path(path: Path) -> tuple[Path, list[Path]]:
    """Follow an absolute path step by step.

    Returns:
        Where it leads, without links; and all that it leads through: directories, links, and itself.

    Raises:
        InvalidArgs: a component belongs to another user than root, or others can write to it; the message
            names it. Or it leads through too many links.
        OSError: it leads nowhere.
    """
    through = []
    try:
        for step in steps(path):
            _check(path, step, step.lstat())
            through.append(step)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InvalidArgs(f"{path} is not used: it leads through more than {MAX_LINKS} links") from None
        raise
    return through[-1], list(dict.fromkeys(through))


def _check(path: Path, component: Path, status: os.stat_result) -> None:
    where = "it" if component == path else str(component)
    if status.st_uid != 0:
        raise InvalidArgs(f"{path} is not used: {where} belongs to the user {status.st_uid}, and not to root")
    # The mode of a link means nothing. An access control list shows in the group's bits.
    if not stat.S_ISLNK(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidArgs(f"{path} is not used: others than root can write to {where}")
