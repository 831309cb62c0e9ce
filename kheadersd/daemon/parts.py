"""Where precompiled headers and vmlinux.h are made: its parts, wired up when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cache.entry import TYPES
from ..pch.compilers import Compilers
from ..pch.header_removal import Reducer
from ..pch.provider import Precompiler
from ..pch.store import Shelf
from ..sandbox.command import compile_run
from ..sandbox.queue import Bounded
from ..vmlinux.provider import TypesMaker

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.leases import Leases
    from ..cache.lifecycle import Keeper
    from ..config import Config
    from ..headers.provider import Provider
    from ..host.host import Host
    from ..journal import Journal
    from ..progress import Progress

# kheaders-compile.socket takes twice as many: those that are being ended count, too.
_MOST_COMPILERS = 4


class Workshop:
    """Belongs to the event loop.

    Attributes:
        types: makes vmlinux.h.
        reducer: takes headers away that are precompiled.
        precompiler: makes precompiled headers.
    """

    def __init__(
        self,
        host: Host,
        config: Config,
        provider: Provider,
        keeper: Keeper,
        leases: Leases,
        journal: Journal,
        progress: Progress,
    ) -> None:
        run = Bounded(compile_run(), _MOST_COMPILERS)
        self.types = TypesMaker(host, keeper, run, progress, config.extract_timeout)
        self._provider = provider
        self._compilers = Compilers(config.compiler_directories, run)
        shelf = Shelf(keeper, self._compilers)
        self.reducer = Reducer(keeper, leases, shelf, run, journal, self._why_lost)
        self.precompiler = Precompiler(
            config,
            provider,
            self.types,
            keeper,
            self._compilers,
            shelf,
            self.reducer,
            run,
            journal,
            progress,
        )

    async def configure(self, config: Config) -> None:
        """Use other limits from now on, and read the profiles again; directories stay as they are."""
        self.types.find_timeout = config.extract_timeout
        self.precompiler.configure(config)
        await self.precompiler.load_profiles()

    async def _why_lost(self, entry: Entry) -> str:
        if entry.record.kind == TYPES:
            return await self.types.why_lost(entry)
        return await self._provider.why_lost(entry)

    async def close(self) -> None:
        """Give up all work, and wait until it has cleaned up behind itself."""
        await self.precompiler.close()
        await self.reducer.close()
        await self.types.close()
        await self._compilers.close()
