"""Keeps the cache: makes entries durable, lets them go when it is time, and tells of every change."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Collection
from typing import TYPE_CHECKING

from ..errors import InUse, KheadersError, NotCached
from ..journal import Event
from ..sources.source import RANDOMISED
from ..system import malloc as memory
from ..system.disk import DiskError, remove_tree, used_bytes
from ..system.tasks import Background, SharedWork, in_thread
from .entry import HEADERS, TYPES
from .leftovers import Leftover, Stay
from .manifest import Unread
from .pch_files import retire as retire_pch
from .retention import Retention, leftovers_to_go, victims

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Config
    from ..host.host import Host
    from ..journal import Journal
    from ..release import Release
    from .cache import Cache
    from .entry import Entry
    from .leases import Leases
    from .observer import CacheObserver
    from .pch_files import Pch
    from .recovery import Recovered
    from .staging import Published


class Keeper:
    """The life of entries after they were made. Belongs to the event loop."""

    def __init__(
        self,
        host: Host,
        config: Config,
        cache: Cache,
        leases: Leases,
        journal: Journal,
        observer: CacheObserver,
    ) -> None:
        self.cache = cache
        self._host = host
        self._retention = _retention(config)
        self._leases = leases
        self._journal = journal
        self._observer = observer
        self._background = Background()
        self._work = SharedWork()
        self._pruning = asyncio.Lock()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def configure(self, config: Config) -> None:
        """Apply another retention policy, from now on and in the background."""
        self._retention = _retention(config)
        self._background.start(self._prune_quietly())

    def opened(self, found: Recovered) -> None:
        """Tell what was found at start, and finish what the predecessor could not."""
        for name, why in found.cleared:
            self._journal.report(
                Event.CACHE_CLEARED, f"Cleared {name}: {why}", path=str(self.cache.directory / name)
            )
        for name, why in found.aside:
            self._journal.report(
                Event.CACHE_CLEARED, f"Set {name} aside: {why}", path=str(self.cache.directory / name)
            )
        for name in found.unknown:
            self._journal.report(
                Event.CACHE_CLEARED,
                f"{name} in the cache directory is not ours and was left alone",
                path=str(self.cache.directory / name),
            )
        for problem in found.problems:
            self.failed(problem)
        for entry, what in found.damaged:
            self._tell_damage(entry, what)
        for entry in found.entries:
            if not entry.is_durable and not entry.is_damaged:
                self._background.start(self._make_durable(entry))
        self._background.start(self._prune_quietly())
        self.tell_state()

    def tell_state(self) -> None:
        """One journal entry with the state of the cache."""
        entries = self.cache.entries()
        releases = ", ".join(sorted({entry.release for entry in entries})) or "none"
        self._journal.report(
            Event.CACHE_STATE,
            f"The cache has {len(entries)} entries, {self.cache.total_bytes()} bytes: {releases}",
            path=str(self.cache.directory),
            bytes=self.cache.total_bytes(),
            entries=len(entries),
        )
        self._observer.changed()

    async def close(self) -> None:
        """Finish what was begun."""
        await self._work.close()
        await self._background.settle()

    def lock(self, name: str) -> asyncio.Lock:
        """To be held by whoever changes what is on the disk of the entry of that name."""
        return self._locks.setdefault(name, asyncio.Lock())

    def is_leased(self, entry: Entry) -> bool:
        """Whether a program holds a lease on it."""
        return self._leases.held(entry.name) > 0

    def is_busy(self, entry: Entry) -> bool:
        """Whether somebody changes what is on its disk at this moment."""
        return self.lock(entry.name).locked()

    def is_being_replaced(self, entry: Entry) -> bool:
        """Whether another has its name on the disk already, and is about to be made known."""
        if not self.is_busy(entry):
            return False
        try:
            return os.lstat(entry.directory).st_ino != entry.inode
        except OSError:
            return False

    # Entries come

    def added(self, published: Published, seconds: float, uid: int | None) -> None:
        """Make a new entry known, and do in the background what its caller need not wait for.

        Args:
            seconds: that extracting it took.
            uid: of who asked for it.
        """
        entry = published.entry
        self.replaced(published)
        if (before := self.cache.named(entry.name)) is not None and before.is_damaged:
            self._observer.entry_removed(before, "damaged")
        self.cache.insert(entry)
        record = entry.record
        what = "Extracted the headers" if record.kind == HEADERS else "Made vmlinux.h"
        self._journal.report(
            Event.ENTRY_ADDED,
            f"{what} of {record.release} from {record.origin} ({record.source}) "
            f"to {entry.path} in {seconds:.2f} s",
            release=record.release,
            source=record.source,
            path=str(entry.path),
            digest=record.digest,
            bytes=record.bytes,
            duration_usec=int(seconds * 1e6),
            client_uid=uid,
        )
        if record.randomised:
            self._journal.report(
                Event.RANDOMISED,
                RANDOMISED.format(record.release),
                release=record.release,
                path=str(entry.path),
            )
        self._observer.entry_added(entry)
        self.tell_state()
        self._background.start(self._settle_in(entry))

    def reduced(self, published: Published) -> None:
        """Make known that an entry is without its headers from now on."""
        self.replaced(published)
        entry = published.entry
        self._journal.report(
            Event.HEADERS_REDUCED,
            f"The headers of {entry.release} have left {entry.path}; what was precompiled from them stays",
            release=entry.release,
            path=str(entry.path),
            digest=entry.record.digest,
            bytes=entry.bytes,
        )
        self.tell_state()
        self._background.start(self._settle_in(entry))

    def replaced(self, published: Published) -> None:
        """Remove what had an entry's name before; if it was leased under that name, once the leases end."""
        name, trash = published.entry.name, published.replaced
        if trash is None:
            return
        try:
            inode = os.lstat(trash).st_ino
        except OSError:
            return
        if self._leases.is_leased(name, inode):
            # As many bytes as the new one, as a rule; a reduced one is not leased.
            used = published.entry.record.bytes
            now = time.time_ns() // 1000
            self.cache.leftovers.add(Leftover(Stay.LEASED, name, trash, inode, used, now))
        else:
            self._background.start(self._discard(trash))

    def abandon(self, published: Published) -> None:
        """Remove what was published in the place of an entry that somebody removed meanwhile."""
        if (trash := self.cache.remove(published.entry)) is not None:
            self._background.start(self._discard(trash))

    async def _settle_in(self, entry: Entry) -> None:
        await self._make_durable(entry)
        await self._prune_quietly()
        await in_thread(memory.give_back)

    async def _make_durable(self, entry: Entry) -> None:
        try:
            await in_thread(entry.sync)
            async with self.lock(entry.name):
                whole = await in_thread(entry.mark_durable)
        except KheadersError as error:
            if entry in self.cache:
                self.failed(error.message)
            return
        if whole:
            entry.is_durable = True
        elif entry in self.cache:
            self.found_damaged(entry, "some of its files vanished while it was made")

    # Entries go

    def found_damaged(self, entry: Entry, what: str) -> None:
        """An entry is not as it was made: hand it out no more, and make it again when it is needed."""
        if entry.is_damaged or self.is_being_replaced(entry):
            return
        self._tell_damage(entry, what)
        # What is left of it stays until the new one takes its place: programs may be using it.
        entry.is_damaged = True
        if not entry.directory.exists():
            self._take_away(entry, "damaged")

    def _tell_damage(self, entry: Entry, what: str) -> None:
        self._journal.report(
            Event.ENTRY_DAMAGED,
            f"The {entry.record.kind} of {entry.release} in {entry.path} are damaged: {what}; "
            "they are made again when they are needed",
            release=entry.release,
            path=str(entry.path),
            digest=entry.record.digest,
        )

    async def remove(self, release: Release, *, force: bool) -> int:
        """Remove the entries of a release, and all that was made from them.

        Returns:
            The bytes that this frees.

        Raises:
            NotCached: there are none.
            InUse: a program holds a lease, and ``force`` is not set. Nothing is removed then.
            DiskError: something cannot be removed, as on a read-only file system. An entry that has still
                its name stays.
        """
        entries = [entry for entry in self.cache.entries() if entry.release == release]
        if not entries:
            raise NotCached(f"nothing is cached for {release}")
        held = sum(self._leases.held(entry.name) for entry in entries)
        if held and not force:
            raise InUse(
                f"the headers of {release} are leased {held} times (see kheadersctl status); "
                "wait for the leases to end, or force the removal"
            )
        freed, problems = await self._remove_all([(entry, "requested") for entry in entries])
        if problems:
            raise DiskError("; ".join(problems))
        return freed

    async def retire(self, entries: Collection[Entry]) -> None:
        """Remove entries whose kernels are gone.

        Those that are leased stay until the retention policy takes them, or kernels are looked at again.
        """
        _, problems = await self._remove_all(
            [(entry, "its kernel was removed") for entry in entries if not self._leases.held(entry.name)]
        )
        for problem in problems:
            self.failed(problem)

    async def prune(self) -> tuple[list[Release], int]:
        """Apply the retention policy.

        Returns:
            The releases whose entries left, and the bytes that this freed.

        Raises:
            DiskError: something that has to go cannot be removed. The rest is gone.
        """
        # Not shared: one that is under way has chosen already, by what there was then.
        async with self._pruning:
            return await self._prune()

    async def _prune(self) -> tuple[list[Release], int]:
        problems: list[str] = []
        freed = await self._prune_leftovers(problems)
        protected = await in_thread(self._host.installed_releases)
        if self._host.running is not None:
            protected.add(self._host.running)
        chosen = victims(
            self.cache.entries(),
            protected=protected,
            leased=self._leases.held_entries(),
            policy=self._retention,
            now=time.time_ns() // 1000,
            besides=self.cache.leftovers.bytes,
        )
        more, unremoved = await self._remove_all(chosen)
        freed += more + await self._prune_pchs()
        problems += unremoved
        if problems:
            raise DiskError("; ".join(dict.fromkeys(problems)))
        return [entry.release for entry, _ in chosen], freed

    async def _prune_leftovers(self, problems: list[str]) -> int:
        """Let leftovers go that the retention policy does not let stay; the bytes that this frees."""
        chosen = leftovers_to_go(
            self.cache.leftovers,
            policy=self._retention,
            now=time.time_ns() // 1000,
            entry_bytes=sum(entry.bytes for entry in self.cache.entries()),
        )
        freed = 0
        for leftover, reason in chosen:
            if leftover.stay is Stay.NOT_REMOVED or not self._leases.is_leased(leftover.name, leftover.inode):
                problems += await self._drop(leftover, reason)
                freed += leftover.bytes
        return freed

    async def _drop(self, leftover: Leftover, reason: str) -> list[str]:
        """Remove a leftover.

        Returns:
            What could not be removed, a sentence each.
        """
        try:
            trash = self.cache.leftovers.remove(leftover)
        except DiskError as error:
            return [error.message]
        problems = await self._remove_files(trash) if trash is not None else []
        if not problems:
            self._journal.report(
                Event.CACHE_CLEARED,
                f"Cleared {leftover.directory.name}: {reason}",
                path=str(leftover.directory),
                bytes=leftover.bytes,
            )
        self.tell_state()
        return problems

    async def _remove_files(self, trash: Path) -> list[str]:
        """Remove what was renamed out of the way; what is left of it counts as a leftover.

        Returns:
            What could not be removed, a sentence each.
        """
        problems = await in_thread(remove_tree, trash)
        if problems and (left := await in_thread(_left_of, trash)) is not None:
            self.cache.leftovers.add(left)
        return problems

    async def _prune_pchs(self) -> int:
        """Let precompiled headers go that the cache has no room for, of entries that stay whatever they take.

        Returns:
            The bytes that this frees.
        """
        limit = self._retention.max_bytes
        freed = 0
        owners = [(pch, entry) for entry in self.cache.entries() for pch in entry.pchs.values()]
        for pch, entry in sorted(owners, key=lambda owner: owner[0].last_used):
            if limit is None or self.cache.total_bytes() <= limit or pch.is_in_use():
                break
            # What is being changed is in use, and would be looked for below the wrong entry.
            if not self._leases.held(entry.name) and not self.is_busy(entry):
                if not await self.drop_pch(entry, pch, "the cache has no room for it (MaxSize=)"):
                    break
                freed += pch.record.bytes
        return freed

    def grown(self) -> None:
        """Something was made from an entry: apply the retention policy soon."""
        self._background.start(self._prune_quietly())

    async def _prune_quietly(self) -> None:
        try:
            await self.prune()
        except KheadersError as error:
            self.failed(error.message)

    async def _remove_all(self, chosen: Collection[tuple[Entry, str]]) -> tuple[int, list[str]]:
        """Remove entries.

        Returns:
            The bytes that this frees, and what could not be removed, a sentence each.
        """
        freed = 0
        problems: list[str] = []
        discarding: list[asyncio.Task[None]] = []
        for entry, reason in chosen:
            if entry not in self.cache:
                continue
            size = entry.bytes
            try:
                trash = self._retire(entry, reason)
            except DiskError as error:
                problems.append(error.message)
                continue
            freed += size
            if trash is not None:
                discarding.append(self._background.start(self._discard(trash, problems)))
        if discarding:
            await asyncio.wait(discarding)
        return freed, problems

    def _take_away(self, entry: Entry, reason: str) -> None:
        """Make an entry vanish, and remove its files in the background."""
        try:
            trash = self._retire(entry, reason)
        except DiskError as error:
            self.failed(error.message)
            return
        if trash is not None:
            self._background.start(self._discard(trash))

    def _retire(self, entry: Entry, reason: str) -> Path | None:
        """Make an entry vanish, and tell of it.

        Returns:
            Where its files are now, if there are any.

        Raises:
            DiskError: it cannot be renamed; it is still there.
        """
        trash = self.cache.remove(entry)
        self._journal.report(
            Event.ENTRY_REMOVED,
            f"Removed the {entry.record.kind} of {entry.release} from {entry.path}: {reason}",
            release=entry.release,
            source=entry.record.source,
            path=str(entry.path),
            digest=entry.record.digest,
            bytes=entry.bytes,
        )
        self._observer.entry_removed(entry, reason)
        self.tell_state()
        return trash

    def leases_changed(self) -> None:
        """Remove what only waited for a lease to end. Called whenever there are more or fewer."""
        for leftover in self.cache.leftovers:
            if leftover.stay is Stay.LEASED and not self._leases.is_leased(leftover.name, leftover.inode):
                self._background.start(self._drop_quietly(leftover))
        if any(entry.is_damaged for entry in self.cache.entries()):
            self._background.start(self._prune_quietly())

    async def _drop_quietly(self, leftover: Leftover) -> None:
        for problem in await self._drop(leftover, "its leases have ended"):
            self.failed(problem)

    async def _discard(self, trash: Path, problems: list[str] | None = None) -> None:
        """Remove files; what cannot be removed goes to ``problems``, or to the journal."""
        for problem in await self._remove_files(trash):
            if problems is None:
                self.failed(problem)
            else:
                problems.append(problem)

    # Looking

    async def verify(self, release: Release) -> list[str]:
        """Compare every file of the newest entries of a release with what was made.

        A damaged entry is not handed out any more.

        Returns:
            The problems, a sentence each; empty if it is intact.

        Raises:
            NotCached: there is no entry.
        """
        entries = [entry for kind in (HEADERS, TYPES) if (entry := self.cache.find(release, kind))]
        looked_at = [
            problems for entry in entries if (problems := await self._verify(entry.name)) is not None
        ]
        if not looked_at:
            raise NotCached(f"nothing is cached for {release}, so there is nothing to verify")
        return [problem for problems in looked_at for problem in problems]

    async def _verify(self, name: str) -> list[str] | None:
        return await self._work.share(("verify", name), lambda: self._verify_alone(name))

    async def _verify_alone(self, name: str) -> list[str] | None:
        """The problems of the entry of that name; None if there is none any more."""
        async with self.lock(name):
            # Only now: it may have been made anew until the lock was free.
            if (entry := self.cache.named(name)) is None:
                return None
            problems = await in_thread(entry.verify)
            if entry not in self.cache:
                return None
            if damages := [problem for problem in problems if not isinstance(problem, Unread)]:
                self.found_damaged(entry, damages[0])
            for pch in list(entry.pchs.values()):
                problem = await in_thread(pch.problem)
                if problem and self._has(entry, pch):
                    problems.append(problem)
                    await self.found_pch_damaged(entry, pch)
        return problems

    async def found_pch_damaged(self, entry: Entry, pch: Pch) -> None:
        """A precompiled header is not what the compiler wrote: it goes, and the headers are still good."""
        if self._has(entry, pch):
            self.report_pch(Event.PCH_DAMAGED, f"{pch.path} is not what the compiler wrote", entry, pch)
            await self.drop_pch(entry, pch, "it was damaged")

    async def drop_pch(self, entry: Entry, pch: Pch, why: str) -> bool:
        """Remove a precompiled header.

        Returns:
            Whether it is gone: it stays where it cannot be removed, as on a read-only file system.
        """
        if not self._has(entry, pch):
            return True
        try:
            trash = retire_pch(pch)
        except DiskError as error:
            self.failed(error.message)
            return False
        del entry.pchs[pch.record.key]
        self.report_pch(Event.PCH_REMOVED, f"Removed {pch.path}: {why}", entry, pch)
        self.tell_state()
        if trash is not None:
            await self._discard(trash)
        return True

    def _has(self, entry: Entry, pch: Pch) -> bool:
        """Whether it is still there: entries and what was made from them may go whenever we wait."""
        return entry in self.cache and entry.pchs.get(pch.record.key) is pch

    def report_pch(self, event: Event, message: str, entry: Entry, pch: Pch, **more: object) -> None:
        """Tell of a precompiled header."""
        self._journal.report(
            event,
            message,
            release=entry.release,
            path=str(pch.path),
            digest=entry.record.digest,
            profile=pch.record.profile,
            compiler=pch.record.compiler,
            **more,  # type: ignore[arg-type]
        )

    def failed(self, problem: str) -> None:
        """Tell that something about the cache does not work."""
        self._journal.report(
            Event.CACHE_FAILED,
            problem,
            path=str(self.cache.directory),
            error=KheadersError.bus_name,
        )


def _left_of(trash: Path) -> Leftover | None:
    try:
        inode = os.lstat(trash).st_ino
    except OSError:
        return None
    return Leftover(Stay.NOT_REMOVED, "", trash, inode, used_bytes(trash), 0)


def _retention(config: Config) -> Retention:
    return Retention(
        max_age=None if config.max_age is None else int(config.max_age * 1e6),
        max_entries=config.max_entries,
        max_bytes=config.max_size,
    )
