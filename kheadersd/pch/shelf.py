"""The precompiled headers that are there: confirms them before they are handed out, and lets them go."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ..cache.pch import discard
from ..journal import Event
from ..work import in_thread

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.pch import Pch
    from ..journal import Journal
    from ..keeper import Keeper


class Shelf:
    """All of them, below all entries. Belongs to the event loop."""

    def __init__(self, keeper: Keeper, journal: Journal) -> None:
        self._keeper = keeper
        self._journal = journal

    async def confirmed(self, entry: Entry, key: str) -> Pch | None:
        """The precompiled header of that key, known to be intact; None if there is none that is."""
        pch = entry.pchs.get(key)
        if pch is None:
            return None
        pch.last_used = time.time_ns() // 1000
        if pch.intact() or await in_thread(pch.confirm):
            return pch
        if entry.pchs.get(key) is pch:
            self._tell(Event.PCH_DAMAGED, f"{pch.path} is not what the compiler wrote", entry, pch)
            await self.drop(entry, pch, "it was damaged")
        return None

    def added(self, entry: Entry, pch: Pch, seconds: float) -> None:
        """Make a new one known.

        Args:
            seconds: that making it took.
        """
        record = pch.record
        entry.pchs[record.key] = pch
        self._journal.report(
            Event.PCH_ADDED,
            f"Compiled {len(record.headers)} headers of {entry.release} for {record.profile} with "
            f"{record.compiler} {record.compiler_version} to {pch.path} in {seconds:.2f} s",
            release=entry.release,
            path=str(pch.path),
            digest=entry.record.digest,
            bytes=record.bytes,
            duration_usec=int(seconds * 1e6),
            profile=record.profile,
            compiler=record.compiler,
        )
        self._keeper.tell_state()

    async def make_room(self, entry: Entry, most: int) -> None:
        """Let those go that were not used for the longest time, until there are at most so many."""
        by_use = sorted(entry.pchs.values(), key=lambda pch: pch.last_used)
        for pch in by_use[: max(0, len(by_use) - most)]:
            await self.drop(entry, pch, f"an entry may have {most} (MaxPCHs=), and there are newer ones")

    async def retire(self, is_valid: Callable[[Pch], Awaitable[bool]]) -> None:
        """Let those go that are not valid any more."""
        for entry in self._keeper.cache.entries():
            for pch in list(entry.pchs.values()):
                if not await is_valid(pch):
                    await self.drop(
                        entry, pch, f"{pch.record.compiler} is not what it was made with any more"
                    )

    async def drop(self, entry: Entry, pch: Pch, why: str) -> None:
        """Remove one."""
        if entry.pchs.get(pch.record.key) is not pch:
            return
        del entry.pchs[pch.record.key]
        self._tell(Event.PCH_REMOVED, f"Removed {pch.path}: {why}", entry, pch)
        self._keeper.tell_state()
        for problem in await in_thread(discard, pch.path.parent):
            self._keeper.failed(problem)

    def _tell(self, event: Event, message: str, entry: Entry, pch: Pch) -> None:
        self._journal.report(
            event,
            message,
            release=entry.release,
            path=str(pch.path),
            digest=entry.record.digest,
            profile=pch.record.profile,
            compiler=pch.record.compiler,
        )
