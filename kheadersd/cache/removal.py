# SPDX-License-Identifier: LGPL-2.1-or-later
"""Removes entries, precompiled headers and leftovers: they vanish in one step, their files a little later."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

from ..errors import InUse, NotCached
from ..events import Event
from ..system.disk import DiskError, remove_tree
from ..system.tasks import Background, Cancelled, in_thread
from .hidden import move_to_trash
from .leftovers import Leftover, Stay

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from ..release import Release
    from .cache import Cache
    from .entry import Entry
    from .leases import Leases
    from .pch_files import Pch
    from .reports import Reports
    from .staging import Published

# Seconds for which `close` lets files be removed; the next start removes the rest.
_PATIENCE = 2.0


class Removal:
    """Belongs to the event loop, from when it is made."""

    def __init__(self, cache: Cache, leases: Leases, reports: Reports) -> None:
        self._cache = cache
        self._leases = leases
        self._reports = reports
        self._background = Background()
        self._stopped = threading.Event()
        self._loop = asyncio.get_running_loop()
        cache.remove_staged = self.remove_staged

    async def close(self) -> None:
        """Wait for what is being removed, for a while."""
        settling = asyncio.ensure_future(self._background.settle())
        await asyncio.wait([settling], timeout=_PATIENCE)
        self._stopped.set()
        await settling

    # Entries

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
        entries = [entry for entry in self._cache.entries() if entry.release == release]
        if not entries:
            raise NotCached(f"nothing is cached for {release}")
        held = sum(self._leases.held(entry.name) for entry in entries)
        if held and not force:
            raise InUse(
                f"the headers of {release} are leased {held} times (see kheadersctl status); "
                "wait for the leases to end, or force the removal"
            )
        freed, problems = await self.remove_all([(entry, "requested") for entry in entries])
        if problems:
            raise DiskError("; ".join(problems))
        return freed

    async def remove_unleased(self, entries: Iterable[Entry], reason: str) -> None:
        """Remove those entries that are not leased; the others stay until they are pruned."""
        unleased = [(entry, reason) for entry in entries if not self._leases.held(entry.name)]
        _, problems = await self.remove_all(unleased)
        for problem in problems:
            self._reports.on_failure(problem)

    async def remove_all(self, chosen: Collection[tuple[Entry, str]]) -> tuple[int, list[str]]:
        """Remove entries, each for a reason, leased or not.

        Returns:
            The bytes that this frees, and what could not be removed, a sentence each.
        """
        freed = 0
        problems: list[str] = []
        removing: list[asyncio.Task[None]] = []
        for entry, reason in chosen:
            if entry not in self._cache:
                continue
            size = entry.bytes
            try:
                trash = self._take_out(entry, reason)
            except DiskError as error:
                problems.append(error.message)
                continue
            freed += size
            if trash is not None:
                removing.append(self._start_removing_files(trash, problems))
        if removing:
            await asyncio.wait(removing)
        return freed, problems

    def start_removing(self, entry: Entry, reason: str) -> None:
        """Remove an entry; its files in the background."""
        try:
            trash = self._take_out(entry, reason)
        except DiskError as error:
            self._reports.on_failure(error.message)
            return
        if trash is not None:
            self._start_removing_files(trash)

    def _take_out(self, entry: Entry, reason: str) -> Path | None:
        trash = self._cache.remove(entry)
        self._reports.on_removed(entry, reason)
        return trash

    # What was published

    def on_replaced(self, published: Published) -> None:
        """Remove what had an entry's name before; if it was leased under that name, once the leases end."""
        name, trash = published.entry.name, published.replaced
        if trash is None:
            return
        try:
            inode = os.lstat(trash).st_ino
        except OSError:
            return
        if self._leases.is_leased(name, inode):
            # As many bytes as the new one, as a rule; headers that are leased are not dropped.
            size, now = published.entry.record.bytes, time.time_ns() // 1000
            self._cache.leftovers.add(Leftover(Stay.LEASED, name, trash, inode, size, now))
        else:
            self._start_removing_files(trash)

    def withdraw(self, published: Published) -> None:
        """Remove what was published in the place of an entry that was removed meanwhile."""
        if (trash := self._cache.remove(published.entry)) is not None:
            self._start_removing_files(trash)

    # Leftovers

    def on_leases_changed(self) -> None:
        """Remove what only waited for a lease to end."""
        for leftover in self._cache.leftovers:
            if leftover.stay is Stay.LEASED and not self._leases.is_leased(leftover.name, leftover.inode):
                self._background.start(self._remove_unleased(leftover))

    async def _remove_unleased(self, leftover: Leftover) -> None:
        for problem in await self.remove_leftover(leftover, "its leases have ended"):
            self._reports.on_failure(problem)

    async def remove_leftover(self, leftover: Leftover, reason: str) -> list[str]:
        """Remove a leftover.

        Returns:
            What could not be removed, a sentence each.
        """
        problems: list[str] = []
        try:
            trash = self._cache.leftovers.remove(leftover)
        except DiskError as error:
            return [error.message]
        if trash is not None:
            await asyncio.wait([self._start_removing_files(trash, problems)])
        if not problems:
            self._reports.on_leftover_removed(leftover, reason)
            self._reports.on_change()
        return problems

    # Precompiled headers

    async def remove_pch(self, entry: Entry, pch: Pch, reason: str) -> bool:
        """Remove a precompiled header.

        Returns:
            Whether it is gone: it stays where it cannot be removed, as on a read-only file system.
        """
        if entry not in self._cache or entry.pchs.get(pch.record.key) is not pch:
            return True
        try:
            trash = move_to_trash(pch.path.parent)
        except DiskError as error:
            self._reports.on_failure(error.message)
            return False
        del entry.pchs[pch.record.key]
        self._reports.on_pch(Event.PCH_REMOVED, f"Removed {pch.path}: {reason}", entry, pch)
        self._reports.on_change()
        if trash is not None:
            await asyncio.wait([self._start_removing_files(trash)])
        return True

    # Files

    def _start_removing_files(self, trash: Path, problems: list[str] | None = None) -> asyncio.Task[None]:
        """As `_remove_files`; a caller that is cancelled while it waits for the task does not end it."""
        return self._background.start(self._remove_files(trash, problems))

    def remove_staged(self, path: Path) -> None:
        """Remove what was staged when the work is cancelled, without waiting for it; for any thread.

        Where the event loop has ended, the next start does it.
        """
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._start_removing_files, path)

    async def _remove_files(self, trash: Path, problems: list[str] | None = None) -> None:
        """Remove what was renamed out of the way; what is left of it counts as a leftover.

        Args:
            problems: takes what cannot be removed, a sentence each; None: the journal does.
        """
        found: list[str] = []
        with contextlib.suppress(Cancelled):
            found = await in_thread(remove_tree, trash, self._stopped)
        if found:
            with contextlib.suppress(OSError):
                self._cache.leftovers.add(await in_thread(Leftover.of, Stay.NOT_REMOVED, trash))
                self._reports.on_change()
        for problem in found:
            if problems is None:
                self._reports.on_failure(problem)
            else:
                problems.append(problem)
