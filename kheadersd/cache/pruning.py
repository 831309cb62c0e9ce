# SPDX-License-Identifier: LGPL-2.1-or-later
"""Applies the retention policy."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..system.disk import DiskError
from ..system.tasks import Background, in_thread
from .leftovers import Stay
from .pch_files import IN_USE
from .retention import Retention, leftovers_to_remove, to_remove

if TYPE_CHECKING:
    from ..config import Config
    from ..host.host import Host
    from ..release import Release
    from .cache import Cache
    from .entry import Entry
    from .leases import Leases
    from .removal import Removal
    from .reports import Reports


class Pruning:
    """Belongs to the event loop."""

    def __init__(
        self, host: Host, config: Config, cache: Cache, leases: Leases, removal: Removal, reports: Reports
    ) -> None:
        self._host = host
        self._policy = Retention.of(config)
        self._cache = cache
        self._leases = leases
        self._removal = removal
        self._reports = reports
        self._lock = asyncio.Lock()
        self._background = Background()

    def configure(self, config: Config) -> None:
        """Apply another retention policy, from now on and in the background."""
        self._policy = Retention.of(config)
        self.start()

    def start(self) -> None:
        """Prune in the background; failures go to the journal."""
        self._background.start(self._prune_in_background())

    async def close(self) -> None:
        """Wait for what was begun."""
        await self._background.settle()

    async def prune(self) -> tuple[list[Release], int]:
        """Apply the retention policy.

        Returns:
            The releases whose entries were removed, and the bytes that this freed.

        Raises:
            DiskError: something cannot be removed. The rest is removed.
        """
        # Not shared: one that is under way has chosen already, by what there was then.
        async with self._lock:
            return await self._prune()

    async def _prune_in_background(self) -> None:
        try:
            await self.prune()
        except KheadersError as error:
            self._reports.on_failure(error.message)

    async def _prune(self) -> tuple[list[Release], int]:
        problems: list[str] = []
        freed = await self._prune_leftovers(problems)
        protected = await in_thread(self._host.installed_releases)
        if self._host.running is not None:
            protected.add(self._host.running)
        await self._find_vanished()
        chosen = to_remove(
            self._cache.entries(),
            protected=protected,
            leased=self._leases.held_entries(),
            policy=self._policy,
            now=time.time_ns() // 1000,
            besides=self._cache.leftovers.bytes,
            in_use_since=time.monotonic() - IN_USE,
        )
        more, unremoved = await self._removal.remove_all(chosen)
        freed += more + await self._prune_pchs()
        problems += unremoved
        if problems:
            raise DiskError("; ".join(dict.fromkeys(problems)))
        return [entry.release for entry, _ in chosen], freed

    async def _find_vanished(self) -> None:
        """Note entries whose directory another program has removed as damaged, so that they are pruned."""
        entries = self._cache.entries()
        vanished = await in_thread(lambda: [entry for entry in entries if _has_vanished(entry)])
        for entry in vanished:
            if entry in self._cache and self._cache.note_damage(entry):
                self._reports.on_damaged(entry, "its directory was removed by another program")

    async def _prune_leftovers(self, problems: list[str]) -> int:
        """Remove leftovers; the bytes that this frees."""
        leftovers = self._cache.leftovers
        chosen = leftovers_to_remove(
            leftovers,
            policy=self._policy,
            now=time.time_ns() // 1000,
            entry_bytes=self._cache.total_bytes() - leftovers.bytes,
        )
        freed = 0
        for leftover, reason in chosen:
            if leftover.stay is Stay.NOT_REMOVED or not self._leases.is_leased(leftover.name, leftover.inode):
                problems += await self._removal.remove_leftover(leftover, reason)
                freed += leftover.bytes
        return freed

    async def _prune_pchs(self) -> int:
        """Remove precompiled headers that the cache has no room for, of entries that stay.

        Returns:
            The bytes that this frees.
        """
        limit = self._policy.max_bytes
        freed = 0
        owners = [(pch, entry) for entry in self._cache.entries() for pch in entry.pchs.values()]
        for pch, entry in sorted(owners, key=lambda owner: owner[0].last_used):
            if limit is None or self._cache.total_bytes() <= limit or pch.is_in_use():
                break
            # What is being changed is in use, and would be looked for below the wrong entry.
            if not self._leases.held(entry.name) and not self._cache.locks.is_held(entry):
                if not await self._removal.remove_pch(entry, pch, "the cache has no room for it (MaxSize=)"):
                    break
                freed += pch.record.bytes
        return freed


def _has_vanished(entry: Entry) -> bool:
    """Whether its directory is not there; that it cannot be looked at says nothing. Blocking."""
    try:
        entry.directory.lstat()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return False
