# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry is made in a hidden directory, and gets its name in one step."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from typing import TYPE_CHECKING, Self

from ..errors import KheadersError
from ..system import disk
from ..system.tasks import Cancelled
from . import pch_files
from .entry import Entry, Record, set_last_used
from .hidden import STAGING, TRASH, new_name
from .integrity import Integrity
from .manifest import directories

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from .manifest import Manifest


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A new entry, which `Cache.insert` makes known.

    Attributes:
        replaced: where the directory is that had the name before, to be removed; it may wait there until its
            leases end. None if there was none.
    """

    entry: Entry
    replaced: Path | None

    def revert(self) -> None:
        """Give what was replaced its name again; blocking, a millisecond. Sets nothing in memory.

        Raises:
            Vanished: one of them is not there any more.
            DiskError: something else is wrong with the disk.
        """
        assert self.replaced is not None
        with disk.explained("restore the entry", self.entry.directory):
            _swap(self.replaced, self.entry.directory)


class Staging:
    """A directory in which an entry is made; leaving its ``with`` block removes it unless it was published.

    An extraction that is cancelled has to end soon, and may leave 100,000 files, which ``remove_cancelled``
    removes.

    Attributes:
        name: what the entry will be called.
        tree: the directory to extract to.
        tree_fd: the same, opened; closed on leaving.
    """

    def __init__(self, parent: Path, name: str, remove_cancelled: Callable[[Path], object]) -> None:
        """Make the place; blocking.

        Raises:
            OSError: it cannot be made; nothing is left.
        """
        self.name = name
        self._path = new_name(parent, STAGING)
        self.tree = self._path / "tree"
        self._target = parent / name
        self._is_published = False
        self._remove_cancelled = remove_cancelled
        self._path.mkdir(mode=0o700)
        try:
            self.tree.mkdir()
            self.tree.chmod(0o755)
            self.tree_fd = os.open(self.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            disk.remove_tree(self._path)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Any failure then has this cause, and the same work succeeds when it is repeated.
            vanished = isinstance(error, KheadersError) and not self._is_there()
        finally:
            self._close(self._remove_cancelled if isinstance(error, Cancelled) else disk.remove_tree)
        if vanished:
            raise disk.Vanished(
                f"{self._path} was removed by another program while headers were made in it; ask again"
            ) from error

    def close(self) -> None:
        """What leaving the block does; blocking."""
        self._close(disk.remove_tree)

    def _close(self, remove: Callable[[Path], object]) -> None:
        os.close(self.tree_fd)
        if not self._is_published:
            remove(self._path)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self.tree), os.fstat(self.tree_fd))
        except OSError:
            return False

    def publish(self, record: Record, manifest: Manifest) -> Published:
        """Give the finished entry its name, in one step; blocking, a few milliseconds.

        What had the name is there until the new entry is. Nothing is synced, so that the caller can be
        answered at once: what a power failure then takes away is found at the next start, because the entry
        has no durable mark and is of another boot. `Entry.sync` and `Entry.mark_durable` should follow.

        Raises:
            NoSpace: the file system is full.
            Vanished: a program removed what was made.
            DiskError: something else is wrong with the disk.
            ValueError: the record is that of another entry than the one staged.
        """
        if record.name != self.name:
            raise ValueError(f"the record of {record.name} is not that of {self.name}")
        encoded = manifest.encode()
        digest = hashlib.sha256(encoded).hexdigest()
        record = dataclasses.replace(record, boot_id=disk.boot_id(), manifest_sha256=digest)
        with disk.explained("finish the entry", self._path.parent):
            if not self._is_there():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.tree))
            disk.write_new(self._path / "manifest", encoded)
            disk.write_new(self._path / "entry.json", record.encode())
            pchs = pch_files.carry_over(self._target, self._path)
            set_last_used(self._path, record.extracted_at)
            self._path.chmod(0o755)
            inode = os.lstat(self._path).st_ino
            integrity = Integrity.of(self.tree, directories(encoded)).at(self._target / "tree")
            replaced = self._put_in_place()
        self._is_published = True
        entry = Entry(record, self._target, inode, integrity, record.extracted_at, pchs=pchs)
        return Published(entry, replaced)

    def _put_in_place(self) -> Path | None:
        try:
            self._path.rename(self._target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return None
        trash = new_name(self._path.parent, TRASH)
        _swap(self._path, self._target)
        self._path.rename(trash)
        return trash


def _swap(one: Path, other: Path) -> None:
    """Exchange two names, in one step where the file system can.

    Raises:
        OSError: one of them is not there, or the like.
    """
    if not disk.exchange(one, other):
        aside = new_name(one.parent, TRASH)
        other.rename(aside)
        one.rename(other)
        aside.rename(one)
