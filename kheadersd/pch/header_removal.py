"""Lets headers go once they are precompiled, and proves first that nothing of them is missing."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING

from ..cache.without_headers import drop_headers
from ..errors import CompileFailed, KheadersError
from ..journal import Event
from ..system.disk import Vanished, is_mounted
from ..system.tasks import Background, in_thread
from .compile import compile_canary, find_needed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..cache.cache import Cache
    from ..cache.entry import Entry
    from ..cache.leases import Leases
    from ..cache.lifecycle import Lifecycle
    from ..cache.staging import Published
    from ..journal import Journal
    from ..sandbox.command import Run
    from .store import PchStore


# Seconds for which headers are taken to be in use by who was given them, lease or not.
_IN_USE = 600.0


class HeaderRemoval:
    """Takes the headers of entries away. Belongs to the event loop."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        leases: Leases,
        store: PchStore,
        run: Run,
        journal: Journal,
        why_lost: Callable[[Entry], Awaitable[str]],
    ) -> None:
        """
        Args:
            why_lost: says why no source can give the headers of an entry again; "" if one can.
        """
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._leases = leases
        self._store = store
        self._run = run
        self._journal = journal
        self._why_lost = why_lost
        self._background = Background()

    async def close(self) -> None:
        """Give up what was begun: what is not proven is put back."""
        await self._background.close()

    async def reduce(
        self, entry: Entry, seconds: float, *, at_once: bool, force: bool = False
    ) -> tuple[Entry, str]:
        """Leave of an entry what its precompiled headers need.

        It is seen to its end even if nobody waits for it any more.

        Args:
            seconds: that one run of a compiler may take.
            at_once: also if a program was given the headers in the last ten minutes.
            force: also if no source can give the headers again.

        Returns:
            The entry that has its name now, and why its headers stay; "" if they left.

        Raises:
            CompileFailed: what would be left is not enough; the headers are still there.
            Vanished: somebody removed the entry meanwhile.
        """
        done: asyncio.Future[tuple[Entry, str]] = asyncio.get_running_loop().create_future()
        self._background.start(self._reduce(entry, seconds, at_once, force, done))
        return await done

    async def _reduce(
        self,
        entry: Entry,
        seconds: float,
        at_once: bool,
        force: bool,
        done: asyncio.Future[tuple[Entry, str]],
    ) -> None:
        try:
            async with self._cache.locks.of(entry.name):
                result = await self._reduce_locked(entry, seconds, at_once, force)
        except KheadersError as error:
            if done.cancelled():
                self._journal.report_failure(error, release=entry.release, path=str(entry.path))
            else:
                done.set_exception(error)
        except asyncio.CancelledError:
            done.cancel()
            raise
        except Exception as error:
            if done.cancelled():
                raise
            done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(result)

    async def _reduce_locked(
        self, entry: Entry, seconds: float, at_once: bool, force: bool
    ) -> tuple[Entry, str]:
        if entry not in self._cache or not entry.has_headers:
            return self._cache.named(entry.name) or entry, ""
        # First the long looks, then what can change at any moment.
        if not force and (why := await self._why_lost(entry)):
            return self._kept(entry, f"no source can give them again: {why}")
        # What no compiler can use any more needs nothing.
        await self._store.retire_of(entry)
        needed: set[str] = set()
        for pch in list(entry.pchs.values()):
            if pch.record.needed is None:
                try:
                    names = await find_needed(self._run, pch, entry, seconds)
                except CompileFailed:
                    if not entry.integrity.is_unchanged():
                        raise _vanished(entry) from None
                    raise
                await in_thread(pch.rewrite, dataclasses.replace(pch.record, needed=names))
            needed.update(pch.record.needed or ())
        if await in_thread(is_mounted, entry.path):
            return self._kept(entry, "they are mounted")
        if held := self._leases.held(entry.name):
            return self._kept(entry, f"they are leased {held} times (see kheadersctl status)")
        if not at_once and _is_in_use(entry):
            return self._kept(entry, "a program was given them less than ten minutes ago")
        if entry not in self._cache:
            return self._cache.named(entry.name) or entry, ""
        # From here on nobody is given the headers; whoever asks for them waits, and has them made again.
        entry.is_dropping_headers = True
        try:
            return await self._replace(entry, sorted(needed), seconds), ""
        finally:
            entry.is_dropping_headers = False

    def _kept(self, entry: Entry, why: str) -> tuple[Entry, str]:
        self._journal.report(
            Event.HEADERS_REDUCED,
            f"The headers of {entry.release} stay in {entry.path}: {why}",
            level="debug",
            release=entry.release,
            path=str(entry.path),
        )
        return entry, why

    async def _replace(self, entry: Entry, needed: list[str], seconds: float) -> Entry:
        made: list[Published] = []
        try:
            await in_thread(drop_headers, self._cache, entry, needed, keep=made.append)
            (published,) = made
            _check_still_known(self._cache, entry)
            published.entry.is_on_trial = True
            self._cache.insert(published.entry)
            for pch in list(published.entry.pchs.values()):
                await compile_canary(self._run, pch, published.entry, seconds)
            _check_still_known(self._cache, published.entry)
        except BaseException as error:
            disturbed = not all(published.entry.integrity.is_unchanged() for published in made)
            for published in made:
                await self._put_back(entry, published)
            if not isinstance(error, CompileFailed):
                raise
            if disturbed:
                raise _vanished(entry) from None
            raise CompileFailed(
                f"without its headers, what was precompiled for {entry.release} is of no use, so they were "
                f"kept: {error.message}"
            ) from None
        published.entry.is_on_trial = False
        self._lifecycle.on_headers_dropped(published)
        return published.entry

    async def _put_back(self, entry: Entry, published: Published) -> None:
        """Let the entry be as it was, unless somebody removed it meanwhile."""
        try:
            if published.entry in self._cache or entry in self._cache:
                await in_thread(published.revert)
                self._cache.insert(entry)
            else:
                self._lifecycle.removal.withdraw(published)
        finally:
            self._lifecycle.removal.on_replaced(published)


def _check_still_known(cache: Cache, entry: Entry) -> None:
    """
    Raises:
        Vanished: somebody removed the entry meanwhile.
    """
    if entry not in cache:
        raise _vanished(entry)


def _vanished(entry: Entry) -> Vanished:
    return Vanished(f"the headers of {entry.release} were removed meanwhile; ask again")


def _is_in_use(entry: Entry) -> bool:
    return time.monotonic() - entry.given_at < _IN_USE
