# SPDX-License-Identifier: LGPL-2.1-or-later
"""The cache: entries that appear complete or not at all, whatever happens to the daemon or to the disk.

Layout, below a directory that only the daemon can write to::

    <release>-<digest>/tree/        the headers
    <release>-<digest>/entry.json   the record; its mtime is when the entry was last used
    <release>-<digest>/manifest     every file with its hash
    <release>-<digest>/durable      what the tree was like once all of it was on the disk, see `Integrity`
    <release>-<digest>/pch/<key>/   what was precompiled from it, see `pch_files`
    .staging-*, .trash-*            being made, being removed; cleared at the next start, unless it is leased
    .aside-*                        entries of other versions of the daemon

Methods that say "blocking" are for threads: except for `Cache.open` they change nothing in memory. The
others belong to the event loop and take microseconds.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from typing import TYPE_CHECKING

from ..system import disk
from ..system.disk import Lost
from .directory_lock import DirectoryLock
from .entry import HEADERS, Entry, entry_name
from .hidden import move_to_trash
from .integrity import TreeWatch
from .leftovers import Leftovers
from .recovery import recover
from .staging import Staging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ..release import Release
    from .recovery import Recovered


class Cache:
    """All entries below one directory, which no other daemon uses meanwhile.

    Args:
        directory: made if it is not there, also later, after another program removed it.
        foreign: names in it that belong to other parts of the daemon.

    Attributes:
        leftovers: what takes space in the directory besides the entries.
        locks: held while the files of entries are changed.
        on_lost: called, in any thread, when the directory was removed and cannot be made again.
        remove_staged: removes what was staged when the work is cancelled; by default at once.
    """

    def __init__(
        self, directory: Path, *, foreign: Iterable[str] = (".packages", ".leases", ".registry")
    ) -> None:
        self.directory = directory
        self.leftovers = Leftovers()
        self.locks = EntryLocks()
        self.on_lost: Callable[[Lost], object] = lambda _: None
        self.remove_staged: Callable[[Path], object] = disk.remove_tree
        self._foreign = {*foreign, "lost+found"}
        self._entries: dict[str, Entry] = {}
        self._watch = TreeWatch()
        self._lock = DirectoryLock(directory)

    # Start and end

    def lock(self) -> None:
        """Make sure that the directory is there and that no other daemon uses it; blocking.

        Raises:
            Lost: it was removed, and cannot be made again.
            DiskError: it cannot be made or used safely, or another daemon uses it.
        """
        try:
            self._lock.acquire()
        except Lost as lost:
            self.on_lost(lost)
            raise

    def open(self, is_leased: Callable[[str, int], bool] = lambda *_: False) -> Recovered:
        """Clear what a crash left, load the entries; blocking, before anything else but `lock`.

        Args:
            is_leased: whether a directory is leased, given the name of the entry and its inode.

        Raises:
            DiskError: the directory cannot be made or used safely, or another daemon uses it.
        """
        self.lock()
        self._watch.start()
        found = recover(self.directory, self._foreign, is_leased)
        for leftover in found.leftovers:
            self.leftovers.add(leftover)
        for entry in sorted(found.entries, key=lambda entry: (entry.record.extracted_at, entry.name)):
            self.insert(entry)
        return found

    def close(self) -> None:
        """Unlock the directory; entries stay. May be called twice."""
        self._watch.stop()
        self._lock.release()

    # What is there

    def find(self, release: Release, kind: str = HEADERS) -> Entry | None:
        """The preferred entry for a release, as a rule the newest; it need not be intact."""
        return next(self.all_of(release, kind), None)

    def all_of(self, release: Release, kind: str = HEADERS) -> Iterator[Entry]:
        """The entries for a release, the preferred one first."""
        for entry in reversed(self._entries.values()):
            if entry.record.release == release and entry.record.kind == kind:
                yield entry

    def prefer(self, entry: Entry) -> None:
        """Let `find` find this entry, which must be known, rather than others of the same release."""
        self._entries[entry.name] = self._entries.pop(entry.name)

    def named(self, name: str) -> Entry | None:
        """The entry of a name, as `entry_name` makes it from a release and the digest of an archive."""
        return self._entries.get(name)

    def entries(self) -> tuple[Entry, ...]:
        """All entries, by name."""
        return tuple(self._entries[name] for name in sorted(self._entries))

    def __contains__(self, entry: Entry) -> bool:
        return self._entries.get(entry.name) is entry

    def total_bytes(self) -> int:
        """The space on disk of all entries and leftovers."""
        return sum(entry.bytes for entry in self._entries.values()) + self.leftovers.bytes

    # Entries come and go

    def stage(self, release: Release, digest: str) -> Staging:
        """Begin to make an entry; blocking.

        Raises:
            NoSpace: the file system is full.
            DiskError: the directory was removed and cannot be made again, or the like.
        """
        self.lock()
        with disk.explained("make an entry", self.directory):
            return Staging(self.directory, entry_name(release, digest), self.remove_staged)

    def insert(self, entry: Entry) -> None:
        """Make a published entry known, and preferred."""
        if (replaced := self._entries.pop(entry.name, None)) is not None:
            replaced.integrity.unwatch()
        self._entries[entry.name] = entry
        entry.integrity.watch(self._watch)

    def note_damage(self, entry: Entry) -> bool:
        """Note that an entry is not as it was made; False if that is known, or it is just being replaced."""
        if entry.is_damaged or self.locks.is_being_replaced(entry):
            return False
        entry.is_damaged = True
        return True

    def remove(self, entry: Entry) -> Path | None:
        """Make an entry vanish, from memory and from its name, in one step; 0.1 ms.

        Returns:
            Where its files are now, to be removed; None if they are gone, or were replaced, already.

        Raises:
            DiskError: the directory cannot be renamed. The entry is still there, in memory too.
        """
        trash = move_to_trash(entry.directory, entry.inode)
        if entry in self:
            del self._entries[entry.name]
        entry.integrity.unwatch()
        return trash


class EntryLocks:
    """Locks of entries, by name: held while the files of the entry of that name are changed."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def of(self, name: str) -> asyncio.Lock:
        """The lock of a name."""
        return self._locks.setdefault(name, asyncio.Lock())

    def is_held(self, entry: Entry) -> bool:
        """Whether the files of an entry are being changed."""
        return self.of(entry.name).locked()

    def is_being_replaced(self, entry: Entry) -> bool:
        """Whether another has its name on the disk already, and is about to be made known."""
        if not self.is_held(entry):
            return False
        try:
            return os.lstat(entry.directory).st_ino != entry.inode
        except OSError:
            return False
