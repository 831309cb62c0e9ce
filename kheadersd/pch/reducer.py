"""Lets headers go once they are precompiled, and proves first that nothing of them is missing."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from ..cache.disk import is_mounted
from ..cache.reduced import reduce
from ..errors import CompileFailed, KheadersError
from ..journal import Event
from ..work import Background, in_thread
from .compiling import compile_canary, find_needed

if TYPE_CHECKING:
    from ..apart.process import Run
    from ..cache.cache import Published
    from ..cache.entry import Entry
    from ..cache.leases import Leases
    from ..journal import Journal
    from ..keeper import Keeper


class Reducer:
    """Takes the headers of entries away. Belongs to the event loop."""

    def __init__(self, keeper: Keeper, leases: Leases, run: Run, journal: Journal) -> None:
        self._keeper = keeper
        self._cache = keeper.cache
        self._leases = leases
        self._run = run
        self._journal = journal
        self._background = Background()

    async def close(self) -> None:
        """Finish what was begun."""
        await self._background.settle()

    async def reduce(self, entry: Entry, seconds: float) -> Entry:
        """Leave of an entry what its precompiled headers need.

        It is seen to its end even if nobody waits for it any more.

        Args:
            seconds: that one run of a compiler may take.

        Returns:
            The entry that has its name now: the same one if somebody holds a lease on it, or has it mounted.

        Raises:
            CompileFailed: what would be left is not enough; the headers are still there.
        """
        done: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        self._background.start(self._reduce(entry, seconds, done))
        return await done

    async def _reduce(self, entry: Entry, seconds: float, done: asyncio.Future[Entry]) -> None:
        try:
            async with self._keeper.lock(entry.name):
                result = await self._reduce_locked(entry, seconds)
        except Exception as error:
            if done.cancelled():
                raise
            done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(result)

    async def _reduce_locked(self, entry: Entry, seconds: float) -> Entry:
        if entry not in self._cache or not entry.has_headers:
            return self._cache.named(entry.name) or entry
        needed: set[str] = set()
        for pch in list(entry.pchs.values()):
            record = pch.record
            if record.needed is None:
                names = await find_needed(self._run, record, entry, seconds)
                record = dataclasses.replace(record, needed=names)
                await in_thread(pch.rewrite, record)
            needed.update(record.needed or ())
        mounted = await in_thread(is_mounted, entry.path)
        if self._leases.held(entry.name) or mounted:
            self._journal.report(
                Event.HEADERS_REDUCED,
                f"The headers of {entry.release} stay in {entry.path}: they are in use",
                level="debug",
                release=entry.release,
                path=str(entry.path),
            )
            return entry
        # From here on nobody is given the headers; whoever asks for them waits, and has them made again.
        entry.reducing = True
        try:
            return await self._replace(entry, sorted(needed), seconds)
        finally:
            entry.reducing = False

    async def _replace(self, entry: Entry, needed: list[str], seconds: float) -> Entry:
        published = await in_thread(reduce, self._cache, entry, needed)
        self._cache.insert(published.entry)
        try:
            for pch in list(published.entry.pchs.values()):
                await compile_canary(self._run, pch.record, published.entry, seconds)
        except KheadersError as error:
            await self._put_back(entry, published)
            if not isinstance(error, CompileFailed):
                raise
            raise CompileFailed(
                f"without its headers, what was precompiled for {entry.release} is of no use, so they were "
                f"kept: {error.message}"
            ) from None
        self._keeper.reduced(published)
        return published.entry

    async def _put_back(self, entry: Entry, published: Published) -> None:
        await in_thread(self._cache.take_back, published)
        self._cache.insert(entry)
        self._keeper.replaced(published)
