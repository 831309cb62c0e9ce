# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compares entries with what was made, and acts on damage, also where others notice it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NotCached
from ..events import Event
from ..system.tasks import SharedWork, in_thread
from .entry import HEADERS, TYPES
from .manifest import Unread

if TYPE_CHECKING:
    from ..release import Release
    from .cache import Cache
    from .entry import Entry
    from .pch_files import Pch
    from .removal import Removal
    from .reports import Reports


class Verification:
    """Belongs to the event loop."""

    def __init__(self, cache: Cache, removal: Removal, reports: Reports) -> None:
        self._cache = cache
        self._removal = removal
        self._reports = reports
        self._work = SharedWork()

    async def close(self) -> None:
        """Cancel all work, and wait for its end."""
        await self._work.close()

    async def verify(self, release: Release) -> list[str]:
        """Compare every file of the newest entries of a release with what was made.

        A damaged entry is not served any more.

        Returns:
            The problems, a sentence each; empty if it is intact.

        Raises:
            NotCached: there is no entry.
        """
        entries = [entry for kind in (HEADERS, TYPES) if (entry := self._cache.find(release, kind))]
        verified = [problems for entry in entries if (problems := await self._verify(entry.name)) is not None]
        if not verified:
            raise NotCached(f"nothing is cached for {release}, so there is nothing to verify")
        return [problem for problems in verified for problem in problems]

    async def _verify(self, name: str) -> list[str] | None:
        return await self._work.share(name, lambda: self._verify_alone(name))

    async def _verify_alone(self, name: str) -> list[str] | None:
        """The problems of the entry of that name; None if there is none any more."""
        async with self._cache.locks.of(name):
            # Only now: it may have been made anew until the lock was free.
            if (entry := self._cache.named(name)) is None:
                return None
            problems = await in_thread(entry.verify)
            if entry not in self._cache:
                return None
            if damages := [problem for problem in problems if not isinstance(problem, Unread)]:
                self.on_damaged(entry, damages[0])
            for pch in list(entry.pchs.values()):
                problem = await in_thread(pch.problem)
                if problem and entry in self._cache and entry.pchs.get(pch.record.key) is pch:
                    problems.append(problem)
                    await self.on_pch_damaged(entry, pch)
        return problems

    def on_damaged(self, entry: Entry, what: str) -> None:
        """An entry is not as it was made: it is not served any more, and made again when it is needed."""
        if not self._cache.note_damage(entry):
            return
        self._reports.on_damaged(entry, what)
        # What is left of it stays until the new one takes its place: programs may be using it.
        if not entry.directory.exists():
            self._removal.start_removing(entry, "damaged")

    async def on_pch_damaged(self, entry: Entry, pch: Pch) -> None:
        """A precompiled header is not what the compiler wrote: it is removed. The headers are still good."""
        if entry in self._cache and entry.pchs.get(pch.record.key) is pch:
            what = f"{pch.path} is not what the compiler wrote"
            self._reports.on_pch(Event.PCH_DAMAGED, what, entry, pch)
            await self._removal.remove_pch(entry, pch, "it was damaged")
