# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drops headers that are precompiled, after proving that no precompiled header needs them."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
import time
from typing import TYPE_CHECKING

from ..cache.without_headers import drop_headers
from ..errors import CompileFailed, Corrupt, KheadersError
from ..system.disk import Vanished, is_mounted
from ..system.tasks import Background, in_thread
from .canary import compile_canary
from .needed_headers import find_needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..cache.staging import Published
    from ..journal import Journal
    from .compiler_run import CompilerRun
    from .requests import Base
    from .store import PchStore


log = logging.getLogger(__name__)

# Seconds for which the program that was given headers is taken to use them, lease or not.
_IN_USE = 600.0


class HeaderRemoval:
    """Drops the headers of entries. Belongs to the event loop.

    Args:
        bases: tell whether dropped headers could be had again, by `Record.kind`.
    """

    def __init__(
        self,
        bases: Mapping[str, Base],
        lifecycle: Lifecycle,
        store: PchStore,
        run: CompilerRun,
        journal: Journal,
    ) -> None:
        self._bases = bases
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._store = store
        self._run = run
        self._journal = journal
        self._background = Background()

    async def close(self) -> None:
        """Cancel all work: headers that are not proven to be needless are put back."""
        await self._background.close()

    async def drop(self, entry: Entry, *, at_once: bool, force: bool = False) -> tuple[Entry, str]:
        """Leave of an entry what its precompiled headers need.

        The work goes on to its end when the caller leaves.

        Args:
            at_once: also if a program was given the headers in the last ten minutes.
            force: also if no source can give the headers again.

        Returns:
            The entry that has its name now, and why its headers stay; "" if they were dropped.

        Raises:
            CompileFailed: what would be left is not enough; the headers are still there.
            Vanished: another program removed the entry meanwhile.
        """
        dropping = self._background.start(self._drop(entry, at_once=at_once, force=force))
        try:
            result = await asyncio.shield(dropping)
        except asyncio.CancelledError:
            dropping.add_done_callback(functools.partial(self._log_failure, entry))
            raise
        if isinstance(result, KheadersError):
            raise result
        return result

    def _log_failure(self, entry: Entry, dropping: asyncio.Task[tuple[Entry, str] | KheadersError]) -> None:
        """Log an error that no caller waits for any more."""
        if not dropping.cancelled() and isinstance(error := dropping.result(), KheadersError):
            self._journal.report_failure(error, release=entry.release, path=str(entry.path))

    async def _drop(self, entry: Entry, *, at_once: bool, force: bool) -> tuple[Entry, str] | KheadersError:
        try:
            async with self._cache.locks.of(entry.name):
                return await self._drop_locked(entry, at_once=at_once, force=force)
        except Corrupt as error:
            # Files that are missing because the entry is being removed are no damage.
            return error if entry in self._cache else _vanished(entry)
        except KheadersError as error:
            return error

    async def _drop_locked(self, entry: Entry, *, at_once: bool, force: bool) -> tuple[Entry, str]:
        if entry not in self._cache or not entry.has_headers:
            return self._cache.named(entry.name) or entry, ""
        # What takes long first, then what can change at any moment.
        if not force and (why := await self._bases[entry.record.kind].why_not_restorable(entry)):
            return self._kept(entry, f"no source can restore them: {why}")
        # What no compiler can use any more needs nothing.
        await self._store.remove_outdated_of(entry)
        needed = await self._needed(entry)
        is_shown = await in_thread(is_mounted, entry.path)
        if why := "they are mounted" if is_shown else self.why_in_use(entry, at_once=at_once):
            return self._kept(entry, why)
        if entry not in self._cache:
            return self._cache.named(entry.name) or entry, ""
        # From here on the headers are not served: requests for them wait, and have them made again.
        entry.is_dropping_headers = True
        try:
            return await self._replace(entry, sorted(needed)), ""
        finally:
            entry.is_dropping_headers = False

    async def _needed(self, entry: Entry) -> set[str]:
        """The names in the tree that the precompiled headers of an entry need."""
        needed: set[str] = set()
        for pch in list(entry.pchs.values()):
            names = pch.record.needed
            if names is None:
                try:
                    names = await find_needed(self._run, pch, entry)
                except CompileFailed:
                    if not entry.integrity.is_unchanged():
                        raise _vanished(entry) from None
                    raise
                await in_thread(pch.rewrite, dataclasses.replace(pch.record, needed=names))
            needed.update(names)
        return needed

    def why_in_use(self, entry: Entry, *, at_once: bool = False) -> str:
        """Why programs may be using the headers; "" if none does. ``at_once`` is as in `drop`."""
        if held := self._lifecycle.leases.held(entry.name):
            return f"they are leased {held} times (see kheadersctl status)"
        if not at_once and time.monotonic() - entry.given_at < _IN_USE:
            return "a program was given them less than ten minutes ago"
        return ""

    def _kept(self, entry: Entry, why: str) -> tuple[Entry, str]:
        log.debug("the headers of %s stay in %s: %s", entry.release, entry.path, why)
        return entry, why

    async def _replace(self, entry: Entry, needed: Iterable[str]) -> Entry:
        made: list[Published] = []
        try:
            await in_thread(drop_headers, self._cache, entry, needed, keep=made.append)
            (published,) = made
            self._check_still_known(entry)
            published.entry.is_on_trial = True
            self._cache.insert(published.entry)
            for pch in list(published.entry.pchs.values()):
                await compile_canary(self._run, pch, published.entry)
            self._check_still_known(published.entry)
        except BaseException as error:
            disturbed = not all(published.entry.integrity.is_unchanged() for published in made)
            for published in made:
                await self._put_back(entry, published)
            if not isinstance(error, CompileFailed):
                raise
            if disturbed:
                raise _vanished(entry) from None
            raise CompileFailed(
                f"without its headers, what was precompiled for {entry.release} is not usable, so they were "
                f"kept: {error.message}"
            ) from None
        published.entry.is_on_trial = False
        self._lifecycle.on_headers_dropped(published)
        return published.entry

    async def _put_back(self, entry: Entry, published: Published) -> None:
        """Let the entry be as it was, unless it was removed meanwhile."""
        try:
            if published.entry in self._cache or entry in self._cache:
                await in_thread(published.revert)
                self._cache.insert(entry)
            else:
                self._lifecycle.removal.withdraw(published)
        finally:
            self._lifecycle.removal.on_replaced(published)

    def _check_still_known(self, entry: Entry) -> None:
        """
        Raises:
            Vanished: the entry was removed meanwhile.
        """
        if entry not in self._cache:
            raise _vanished(entry)


def _vanished(entry: Entry) -> Vanished:
    return Vanished(f"the headers of {entry.release} were removed meanwhile; ask again")
