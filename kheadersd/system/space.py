"""Room on a file system: how much there is, and which errors say that there is none."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether the file system, or a quota on it, is full; or a file is larger than any may be."""
    return error.errno in _FULL


def free_bytes(where: Path | int) -> int:
    """What an unprivileged process may still write on the file system of a path or a descriptor.

    Raises:
        OSError: there is no such path.
    """
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize
