"""The cache: entries that appear complete or not at all, whatever happens to the daemon or to the disk.

Layout, below a directory that only the daemon can write to::

    <release>-<digest>/tree/        the headers
    <release>-<digest>/entry.json   the record; its mtime is when the entry was last used
    <release>-<digest>/manifest     every file with its hash
    <release>-<digest>/durable      the seal of the tree, once all of it is on the disk
    <release>-<digest>/pch/<key>/   what was precompiled from it, see `pch`
    .staging-*, .trash-*            being made, being removed; cleared at the next start, unless it is leased
    .aside-*                        entries of other versions of the daemon

Methods that say "blocking" are for threads: except for `Cache.open` they change nothing in memory. The
others belong to the event loop and take microseconds.
"""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

from ..system import disk
from ..system.disk import DiskError
from . import recovery as loading
from .directory_lock import Claim
from .entry import HEADERS, Entry, Record, entry_name, is_entry_name, set_last_used
from .opening import Opening
from .seal import fingerprint
from .sentry import Sentry
from .staging import ASIDE, STAGING, TRASH, Published, Staging, swap, trash_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from ..release import Release
    from .leftover import Leftover
    from .manifest import Manifest

__all__ = ["Cache", "Opened", "Published", "Staging"]

_MINUTE = 60_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Opened:
    """What was found at start.

    Attributes:
        kept: the entries; those that are not `Entry.durable` are to be given to `Cache.make_durable`.
        damaged: those of them that are damaged and stay because they are leased, and what is wrong.
        cleared: names of what was removed, and why.
        aside: names of entries of another version of the daemon, which were renamed, and of which.
        strangers: names in the directory that are not ours, left alone.
        problems: what could not be removed, or not be read now and was left alone, a sentence each.
    """

    kept: tuple[Entry, ...]
    damaged: tuple[tuple[Entry, str], ...]
    cleared: tuple[tuple[str, str], ...]
    aside: tuple[tuple[str, str], ...]
    strangers: tuple[str, ...]
    problems: tuple[str, ...]


class Cache:
    """All entries below one directory, which no other daemon uses meanwhile.

    Args:
        directory: made if it is not there, also later, after somebody removed it.
        foreign: names in it that belong to other parts of the daemon.
    """

    def __init__(self, directory: Path, *, foreign: Iterable[str] = (".apt", ".leases")) -> None:
        self.directory = directory
        self._foreign = {*foreign, "lost+found"}
        self._entries: dict[str, Entry] = {}
        self._leftovers: dict[int, Leftover] = {}
        self._sentry = Sentry()
        self._claim = Claim(directory)

    # Start and end

    def claim(self) -> None:
        """Make sure that the directory is there and that no other daemon uses it; blocking.

        Raises:
            DiskError: it cannot be made or used safely, or another daemon uses it.
        """
        self._claim.ensure()

    def open(self, is_leased: Callable[[str, int], bool] = lambda *_: False) -> Opened:
        """Clear what a crash left, load the entries; blocking, before anything else but `claim`.

        What is damaged is removed, unless it is leased. What cannot be read at this moment stays, unknown.

        Args:
            is_leased: whether a directory is leased, given the name of the entry and its inode.

        Raises:
            DiskError: the directory cannot be made or used safely, or another daemon uses it.
        """
        self.claim()
        self._sentry.open()
        with disk.explained("read the cache", self.directory):
            # Hidden names first: an entry that was set aside can get its name back.
            names = sorted(os.listdir(self.directory))
        opening = Opening(self, is_leased)
        for name in names:
            if is_entry_name(name) or name.startswith((STAGING, TRASH, ASIDE)):
                opening.look_at(self.directory / name)
            elif name not in self._foreign:
                opening.strangers.append(name)
        self._entries.update((entry.name, entry) for entry in opening.entries)
        for entry in sorted(self.entries(), key=lambda entry: entry.record.extracted_at):
            self.prefer(entry)
            entry.seal.guard(self._sentry)
        return Opened(
            self.entries(),
            tuple(opening.damaged),
            tuple(opening.cleared),
            tuple(opening.aside),
            tuple(opening.strangers),
            tuple(opening.problems),
        )

    def close(self) -> None:
        """Let go of the directory; entries stay. May be called twice."""
        self._sentry.close()
        self._claim.release()

    # What is there

    def find(self, release: Release, kind: str = HEADERS) -> Entry | None:
        """The preferred entry for a release, as a rule the newest; `check` it before it is handed out."""
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
        entries = sum(entry.bytes for entry in self._entries.values())
        return entries + sum(leftover.bytes for leftover in self._leftovers.values())

    def leftovers(self) -> tuple[Leftover, ...]:
        """What takes space besides the entries."""
        return tuple(self._leftovers.values())

    def leave(self, leftover: Leftover) -> None:
        """Count something that is no entry; anew, if its directory was renamed."""
        self._leftovers[leftover.inode] = leftover

    def drop(self, leftover: Leftover) -> Path | None:
        """Make a leftover vanish, in one step.

        Returns:
            Where its files are now, for `discard`; None if they had gone, or were replaced, already.

        Raises:
            DiskError: the directory cannot be renamed; the leftover is still there.
        """
        trash = self._to_trash(leftover.directory, leftover.inode)
        self._leftovers.pop(leftover.inode, None)
        return trash

    def check(self, entry: Entry) -> bool:
        """Whether an entry is still there and, as far as its `Seal` can tell, as it was made."""
        return not entry.damaged and not entry.on_trial and entry.seal.intact()

    def touch(self, entry: Entry, now: int | None = None) -> int:
        """Note that an entry is used.

        Args:
            now: microseconds since the epoch.

        Returns:
            The entry's last use, which moves, in memory and on the disk, at most once a minute.
        """
        if now is None:
            now = time.time_ns() // 1000
        # A clock that was set back counts as a new minute too.
        if not 0 <= now - entry.last_used < _MINUTE:
            entry.last_used = now
            set_last_used(entry.directory, now)
        return entry.last_used

    # Making an entry

    def stage(self, release: Release, digest: str) -> Staging:
        """Begin to make an entry; blocking.

        Raises:
            NoSpace: the file system is full.
            DiskError: the directory was removed and cannot be made again, or the like.
        """
        self._claim.ensure()
        with disk.explained("make an entry", self.directory):
            return Staging(self.directory, entry_name(release, digest))

    def publish(self, staging: Staging, record: Record, manifest: Manifest) -> Published:
        """Give a finished entry its name, in one step; blocking, a few milliseconds.

        Whatever had the name is there until the new one is. Nothing is synced, so that the caller can be
        answered at once: what a power failure then takes away is found at the next start, because the entry
        has no durable mark and is of another boot. `make_durable` should follow.

        Raises:
            NoSpace: the file system is full.
            Vanished: somebody removed what was made.
            DiskError: something else is wrong with the disk.
            ValueError: the record is that of another entry than the one staged.
        """
        return staging.publish(record, manifest)

    def take_back(self, published: Published) -> None:
        """Let what was replaced have its name again; blocking, a millisecond. Sets nothing in memory.

        Raises:
            Vanished: one of them is not there any more.
            DiskError: something else is wrong with the disk.
        """
        assert published.replaced is not None
        with disk.explained("restore the entry", published.entry.directory):
            swap(published.replaced, published.entry.directory)

    def insert(self, entry: Entry) -> None:
        """Make a published entry known, and preferred."""
        if (replaced := self._entries.pop(entry.name, None)) is not None:
            replaced.seal.unguard()
        self._entries[entry.name] = entry
        entry.seal.guard(self._sentry)

    def rewrite(self, entry: Entry, record: Record) -> None:
        """Replace the record on the disk, in one step, when more is known of where an entry came from.

        Blocking. Sets nothing in memory.

        Raises:
            NoSpace, Vanished, DiskError: the old record is still there, if the entry is.
        """
        new = entry.directory / "entry.json.new"
        with disk.explained("rewrite the record of the entry", entry.directory):
            new.unlink(missing_ok=True)
            disk.write_new(new, record.encode(), sync=True)
            os.rename(new, entry.directory / "entry.json")
        set_last_used(entry.directory, entry.last_used)

    def make_durable(self, entry: Entry) -> bool:
        """Both `sync` and `mark_durable`, where nothing else is done with the entry."""
        self.sync(entry)
        return self.mark_durable(entry)

    def sync(self, entry: Entry) -> None:
        """Sync an entry to the disk; blocking, some 0.2 s.

        Raises:
            NoSpace: the disk turned out to be full only now.
            Vanished: the entry is not there any more.
            DiskError: the disk failed.
        """
        with disk.explained("sync the entry to the disk", entry.directory):
            disk.sync_file_system(entry.directory)

    def mark_durable(self, entry: Entry) -> bool:
        """Mark an entry that was synced; blocking, some 50 ms. Sets nothing in memory.

        To be called under the entry's lock: nothing else may change what is on the disk of it meanwhile.

        Returns:
            False if files are missing: a program removed some while it was made, and it must be retired.

        Raises:
            As `sync`.
        """
        with disk.explained("sync the entry to the disk", entry.directory):
            count, whole = fingerprint(entry.path)
            disk.check_inode(os.lstat(entry.directory), entry.inode)
            if count != entry.record.files:
                return False
            mark = entry.directory / "durable"
            mark.unlink(missing_ok=True)
            disk.write_new(mark, entry.seal.encode(whole), sync=True)
            disk.sync_directory(entry.directory)
            disk.sync_directory(self.directory)
        return True

    # Removing an entry, and looking at it closely

    def retire(self, entry: Entry) -> Path | None:
        """Make an entry vanish, from memory and from its name, in one step; 0.1 ms.

        Returns:
            Where its files are now, for `discard`; None if they had gone, or were replaced, already.

        Raises:
            DiskError: the directory cannot be renamed. The entry is still there, in memory too.
        """
        trash = self._to_trash(entry.directory, entry.inode)
        if entry in self:
            del self._entries[entry.name]
        entry.seal.unguard()
        return trash

    def _to_trash(self, directory: Path, inode: int) -> Path | None:
        trash = trash_name(self.directory)
        try:
            if os.lstat(directory).st_ino != inode:
                return None
            os.rename(directory, trash)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DiskError(f"cannot remove {directory}: {error.strerror}") from error
        return trash

    def discard(self, trash: Path) -> list[str]:
        """Remove the files of a retired or replaced entry; blocking, some 0.3 s.

        Returns:
            What could not be removed and why; it is tried again at the next start.
        """
        return disk.remove_tree(trash)

    def verify(self, entry: Entry) -> list[str]:
        """Compare every file of an entry with what was extracted; blocking, some 0.2 s.

        Returns:
            What is wrong, a sentence each; empty if the entry is intact.
        """
        return loading.compare(entry.directory, entry.record)
