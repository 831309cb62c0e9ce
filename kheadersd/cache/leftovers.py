# SPDX-License-Identifier: LGPL-2.1-or-later
"""Directories in the cache that take space there and are no entries: they stay for a while."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

from ..system import disk
from .hidden import move_to_trash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stay(enum.Enum):
    """Why a leftover is still there."""

    LEASED = "leased"
    """It was leased before another entry took its name. It is removed when the last such lease ends."""

    OTHER_VERSION = "other version"
    """Another version of the daemon wrote the record, and may run again. The retention policy decides."""

    NOT_REMOVED = "not removed"
    """Some of it could not be removed. That is tried again whenever the cache is pruned."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leftover:
    """One directory that counts towards MaxSize=.

    Attributes:
        name: of the entry that it was; "" if that does not matter any more.
        inode: of the directory, which tells it from another that has its path by now.
        bytes: the space on disk that it takes.
        last_used: microseconds since the epoch.
    """

    stay: Stay
    name: str
    directory: Path
    inode: int
    bytes: int
    last_used: int

    @classmethod
    def of(cls, stay: Stay, directory: Path, name: str = "", last_used: int = 0) -> Leftover:
        """That of a directory as it is now; blocking.

        Raises:
            OSError: it is not there.
        """
        inode = directory.lstat().st_ino
        return cls(stay, name, directory, inode, disk.used_bytes(directory), last_used)


class Leftovers:
    """All leftovers of a cache."""

    def __init__(self) -> None:
        self._by_inode: dict[int, Leftover] = {}

    def __iter__(self) -> Iterator[Leftover]:
        return iter(tuple(self._by_inode.values()))

    @property
    def bytes(self) -> int:
        """The space on disk that they take."""
        return sum(leftover.bytes for leftover in self._by_inode.values())

    def add(self, leftover: Leftover) -> None:
        """Count a leftover; anew, if its directory was renamed."""
        self._by_inode[leftover.inode] = leftover

    def remove(self, leftover: Leftover) -> Path | None:
        """Forget a leftover, and make its directory vanish in one step.

        Returns:
            Where its files are now, to be removed; None if they are gone, or were replaced, already.

        Raises:
            DiskError: the directory cannot be renamed; the leftover is still there.
        """
        trash = move_to_trash(leftover.directory, leftover.inode)
        self._by_inode.pop(leftover.inode, None)
        return trash
