# SPDX-License-Identifier: LGPL-2.1-or-later
"""The life of entries: from their publication to the disk, without their headers, until they are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KheadersError, NoSpace
from ..system import malloc
from ..system.disk import DiskError, Vanished
from ..system.tasks import Background, in_thread
from .pruning import Pruning
from .removal import Removal
from .reports import Reports
from .verification import Verification

if TYPE_CHECKING:
    from ..config import Config
    from ..host.host import Host
    from ..journal import Journal
    from .cache import Cache
    from .entry import Entry, Record
    from .leases import Leases
    from .observer import CacheObserver
    from .recovery import Recovered
    from .staging import Published


class Lifecycle:
    """Makes known what happens to entries, and starts what follows from it. Belongs to the event loop.

    Attributes:
        cache, leases: as given.
        reports: tells the journal and the observer.
        removal, pruning, verification: what can be done with entries that are there.
    """

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
        self.leases = leases
        self.reports = Reports(cache, journal, observer)
        self.removal = Removal(cache, leases, self.reports)
        self.pruning = Pruning(host, config, cache, leases, self.removal, self.reports)
        self.verification = Verification(cache, self.removal, self.reports)
        self._background = Background()

    async def close(self) -> None:
        """Finish what was begun."""
        await self.verification.close()
        # Each of them may begin something in the next.
        await self._background.settle()
        await self.pruning.close()
        await self.removal.close()

    def on_recovered(self, found: Recovered) -> None:
        """The cache was opened: finish what the predecessor could not."""
        self.reports.on_recovered(found)
        for entry in found.entries:
            if not entry.is_durable and not entry.is_damaged:
                self._background.start(self._make_durable(entry))
        self.pruning.start()
        self.reports.on_change()

    def add(self, published: Published, seconds: float, uid: int | None) -> None:
        """Make a new entry known, and do in the background what its caller need not wait for.

        Args:
            seconds: that extracting it took.
            uid: of the caller who asked for it.
        """
        entry = published.entry
        self.removal.on_replaced(published)
        if (before := self.cache.named(entry.name)) is not None and before.is_damaged:
            self.reports.on_replaced(before)
        self.cache.insert(entry)
        self.reports.on_added(entry, seconds, uid)
        self._background.start(self._settle(entry))

    def on_headers_dropped(self, published: Published) -> None:
        """An entry was published anew, without its headers, and is known."""
        self.removal.on_replaced(published)
        self.reports.on_headers_dropped(published.entry)
        self._background.start(self._settle(published.entry))

    async def update_origin(self, entry: Entry, record: Record) -> bool:
        """Note where an entry comes from now, on the disk and in memory, and prefer the entry.

        The caller holds the entry's lock. Where the disk cannot be written, the entry is good nevertheless,
        and its origin is known until the next start.

        Returns:
            False if the entry was removed or replaced meanwhile.
        """
        if record != entry.record:
            try:
                await in_thread(entry.write_record, record)
            except Vanished:
                return False
            except (NoSpace, DiskError) as error:
                self.reports.on_failure(error.message)
            if entry not in self.cache or not entry.is_intact():
                return False
            entry.record = record
        self.cache.prefer(entry)
        return True

    def on_leases_changed(self) -> None:
        """Leases were granted or have ended: remove what only waited for that."""
        self.removal.on_leases_changed()
        if any(entry.is_damaged for entry in self.cache.entries()):
            self.pruning.start()

    async def _settle(self, entry: Entry) -> None:
        await self._make_durable(entry)
        self.pruning.start()
        await in_thread(malloc.give_back)

    async def _make_durable(self, entry: Entry) -> None:
        try:
            await in_thread(entry.sync)
            async with self.cache.locks.of(entry.name):
                is_whole = await in_thread(entry.mark_durable)
        except KheadersError as error:
            if entry in self.cache:
                self.reports.on_failure(error.message)
            return
        if is_whole:
            entry.is_durable = True
        elif entry in self.cache:
            self.verification.on_damaged(entry, "some of its files vanished while it was made")
