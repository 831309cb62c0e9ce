# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers that are there now: trees in place, and entries of the cache, checked at the moment of the call."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

from ..errors import Corrupt, NotCached, Timeout
from ..events import Event
from ..names import TREE
from ..progress import unreported
from ..sources import tree_copy
from ..sources.installed_tree import NOT_IDENTIFIED
from ..sources.source import NotFound, Tree
from ..system.tasks import SharedWork
from .limits import in_time, limits_of
from .requests import Request, Served

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..config import Config
    from ..host.host import Host
    from ..journal import Journal
    from ..release import Release
    from ..sources.sources import Sources


class ExistingHeaders:
    """Finds headers without extracting, loading or downloading any. Belongs to the event loop."""

    def __init__(
        self, host: Host, config: Config, lifecycle: Lifecycle, sources: Sources, journal: Journal
    ) -> None:
        self._host = host
        self._config = config
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._sources = sources
        self._journal = journal
        self._work = SharedWork()
        self._warned_of: set[Tree] = set()

    def configure(self, config: Config) -> None:
        """Use other limits, for what starts from now on."""
        self._config = config

    async def close(self) -> None:
        """Cancel all looks, and wait until they have ended."""
        await self._work.close()

    def ready(self, request: Request) -> Served | None:
        """What can be served at once; tens of microseconds.

        None also when only a longer look can tell: `lookup` takes it.
        """
        return self._at_once(request, self.cached)

    async def lookup(self, request: Request) -> Served:
        """What is there for a release.

        Raises:
            NotCached: nothing is.
        """
        served = self.ready(request)
        if served is None and TREE in request.sources:
            with contextlib.suppress(NotFound, Timeout):
                served = await self.find_tree(request.release)
        served = served or self.cached(request)
        if served is None:
            raise NotCached(
                f"there are no headers for {request.release} now, or none that are still good; "
                "GetHeaders makes them"
            )
        return served

    def peek(self, release: Release) -> Served | None:
        """As `ready`, for a caller who does not use the headers: the time of their last use stays."""
        return self._at_once(Request(release, self._config.sources), self._peek_cached)

    def is_known(self, release: Release) -> bool:
        """Whether `peek` tells all: no tree in place has come or gone since the last look at them."""
        return TREE not in self._config.sources or self._sources.tree.last_look(release) is not None

    async def find_tree(self, release: Release) -> Served:
        """The tree in place, after a thorough look, which all callers of the same time share.

        Raises:
            NotFound: there is none that is usable.
            Timeout: the disk does not answer.
        """
        look = self._work.share((TREE, release), lambda: self._sources.tree.find(release, unreported))
        return self._in_place(release, await in_time(self._config, release, TREE, look))

    def cached(self, request: Request) -> Served | None:
        """The headers of the preferred entry, if that is good and of one of the request's sources."""
        served = self._peek_cached(request)
        if served is None or served.entry is None:
            return None
        last_used = served.entry.touch()
        return served if last_used == served.last_used else dataclasses.replace(served, last_used=last_used)

    def is_cached(self, release: Release) -> bool:
        """Whether the preferred entry is good, with its headers or without."""
        entry = self._cache.find(release)
        return entry is not None and self.is_current(entry) and entry.is_intact()

    def is_current(self, entry: Entry) -> bool:
        """Whether the entry is what its source would give now: of this host, this kernel build, this file."""
        record = entry.record
        if record.root != str(self._host.root):
            return False
        is_running = record.release == self._host.running
        if is_running and record.build_id and record.build_id != self._host.build_id:
            return False
        if not record.origin_stamp:
            return True
        # Distributions delete a kernel's modules while it still runs; what was made from them stays good.
        return self._sources.stamp(record.source, record.origin) in ("", record.origin_stamp)

    async def base(self, release: Release) -> Entry | None:
        """The entry that precompiled headers of a release are made from, if it is there now.

        Its headers may have been dropped: what was made from them is still good. Takes 0.1 s where trees in
        place have not been looked at for 2 seconds.
        """
        sources = self._config.sources
        if TREE in sources:
            await self._look_at_trees(release)
        if sources[:1] == (TREE,):
            look = self._sources.tree.last_look(release)
            if look is None:
                return None
            if look.tree is not None:
                return self._copy(look.tree, release)
        return self._entry(Request(release, sources))

    async def copy_of(self, tree: Tree, release: Release) -> Entry | None:
        """The entry that a tree in place was copied into, if the tree has not changed since."""
        await self._look_at_trees(release)
        return self._copy(tree, release)

    def describe(self, entry: Entry, *, fresh: bool = False) -> Served:
        """An entry as it is served, unchecked."""
        tree = Tree(entry.path, entry.path, entry.record.randomised)
        return Served(self._host, entry.release, entry.record.source, tree, fresh, entry, entry.last_used)

    def _at_once(self, request: Request, cached: Callable[[Request], Served | None]) -> Served | None:
        if request.sources[0] == TREE:
            look = self._sources.tree.last_look(request.release)
            if look is None:
                return None
            if look.tree is not None:
                return self._in_place(request.release, look.tree)
        return cached(request)

    def _peek_cached(self, request: Request) -> Served | None:
        """As `cached`; the time of the entry's last use stays."""
        entry = self._entry(request)
        return self.describe(entry) if entry is not None and entry.has_headers else None

    def _entry(self, request: Request) -> Entry | None:
        """The preferred entry, whose headers may have been dropped."""
        entry = self._cache.find(request.release)
        if entry is None or entry.record.source not in request.sources or not self.is_current(entry):
            return None
        if entry.is_on_trial:
            return None
        if not entry.is_intact():
            if entry.has_headers and self._cache.locks.is_being_replaced(entry):
                return entry  # by one of the same archive, which is complete
            self._lifecycle.verification.on_damaged(entry, "some of its files were deleted or changed")
            return None
        return entry

    def _in_place(self, release: Release, tree: Tree) -> Served:
        served = Served(self._host, release, TREE, tree)
        if tree.randomised and tree not in self._warned_of:
            self._warned_of.add(tree)
            self._journal.report(
                Event.RANDOMISED, served.warnings[0], release=release, path=str(tree.build_tree)
            )
        return served

    async def _look_at_trees(self, release: Release) -> None:
        """Let `is_current` know whether the trees have changed that entries of a release were copied from."""
        tree_source = self._sources.tree
        if tree_source.last_look(release) is None:
            with contextlib.suppress(NotFound, Timeout):
                await self.find_tree(release)
        records = [entry.record for entry in self._cache.all_of(release)]
        for origin in {record.origin for record in records if record.source == TREE}:
            if tree_source.stamp(origin) == NOT_IDENTIFIED:
                look = functools.partial(tree_source.identify, release, origin, limits_of(self._config))
                # A caller who wants the tree copied is told why it cannot be.
                with contextlib.suppress(Corrupt, Timeout):
                    await in_time(self._config, release, TREE, self._work.share(("look", origin), look))

    def _copy(self, tree: Tree, release: Release) -> Entry | None:
        origin = tree_copy.origin(tree)
        for entry in self._cache.all_of(release):
            record = entry.record
            if (record.source, record.origin) == (TREE, origin) and self.is_current(entry):
                return entry if entry.is_intact() else None
        return None
