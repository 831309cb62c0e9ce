# SPDX-License-Identifier: LGPL-2.1-or-later
"""The identity of a file: what differs once the file was replaced or changed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FileIdentity = tuple[int, int, int, int]
"""Device, inode, time of the last change of the inode (ctime, in nanoseconds) and size in bytes.

Only the kernel sets ctime; any program can set the time of modification back. A directory's ctime changes
with every name that is added to it or removed. Device numbers can change at a reboot: a stored identity has
none.
"""


Identities = dict[str, FileIdentity | None]
"""Identities by the paths of files, directories and links; None where nothing was found."""


def identity_of(status: os.stat_result) -> FileIdentity:
    """The identity of the file that ``status`` describes."""
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def identity_at(path: str | Path, *, follow: bool) -> FileIdentity | None:
    """The identity of what is at ``path``, with ``follow`` behind all links; None if nothing is found there.

    A microsecond: callers compare identities at each request.
    """
    try:
        status = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns, status.st_size


def stored_identity(status: os.stat_result) -> str:
    """The identity as text without the device, which may be stored and compared after a reboot."""
    return f"{status.st_ino} {status.st_ctime_ns} {status.st_size}"


def stored_identity_at(path: str | Path) -> str:
    """As `stored_identity`, for the file that ``path`` leads to; "" if there is none."""
    try:
        return stored_identity(os.stat(path))
    except OSError:
        return ""


def identities_at(paths: Iterable[Path]) -> Identities:
    """The identities of files, directories and links, which are not followed, by their paths."""
    return {str(path): identity_at(path, follow=False) for path in paths}


def are_unchanged(identities: Identities) -> bool:
    """Whether everything that `identities_at` returned is still so: a microsecond or two each."""
    return all(identity_at(path, follow=False) == was for path, was in identities.items())
