# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hidden directories of the cache: what is being made, what is being removed, and what is set aside."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..system import disk

if TYPE_CHECKING:
    from pathlib import Path

STAGING = ".staging-"
TRASH = ".trash-"
ASIDE = ".aside-"


def new_name(parent: Path, prefix: str) -> Path:
    """A name in a directory that nothing has: `STAGING`, `TRASH` or `ASIDE` and a random number."""
    return parent / (prefix + os.urandom(8).hex())


def move_to_trash(directory: Path, inode: int | None = None) -> Path | None:
    """Make a directory vanish in one step, so that no program sees half of it; 0.1 ms.

    Args:
        inode: of the directory, where another may have its name by now.

    Returns:
        Where its files are now, to be removed; None if it is gone, or was replaced by another, already.

    Raises:
        DiskError: it cannot be renamed, and is still there.
    """
    trash = new_name(directory.parent, TRASH)
    try:
        if inode is not None and os.lstat(directory).st_ino != inode:
            return None
        directory.rename(trash)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk.DiskError(f"cannot remove {directory}: {error.strerror}") from error
    return trash
