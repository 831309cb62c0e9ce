"""What is made from headers, precompiled headers and vmlinux.h: its parts, wired up when first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cache.entry import TYPES
from ..pch.compilers import Compilers
from ..pch.header_removal import HeaderRemoval
from ..pch.provider import PchProvider
from ..pch.store import PchStore
from ..sandbox.queue import RunQueue
from ..sandbox.runners import compiler_runner
from ..vmlinux.provider import TypesProvider

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.leases import Leases
    from ..cache.lifecycle import Lifecycle
    from ..config import Config
    from ..headers.provider import Provider
    from ..host.host import Host
    from ..journal import Journal
    from ..progress import Progress

# kheaders-compile.socket takes twice as many: those that are being ended count, too.
_MOST_COMPILERS = 4


class Derived:
    """Makes files from headers. Belongs to the event loop. Takes an argument for each part that it uses.

    Attributes:
        types: makes vmlinux.h.
        header_removal: drops headers once they are precompiled.
        pch: finds and makes precompiled headers.
    """

    def __init__(
        self,
        host: Host,
        config: Config,
        provider: Provider,
        lifecycle: Lifecycle,
        leases: Leases,
        journal: Journal,
        progress: Progress,
    ) -> None:
        run = RunQueue(compiler_runner(), _MOST_COMPILERS)
        self.types = TypesProvider(host, lifecycle, run, progress, config.extract_timeout)
        self._provider = provider
        self._compilers = Compilers(config.compiler_directories, run)
        store = PchStore(lifecycle, self._compilers)
        self.header_removal = HeaderRemoval(lifecycle, leases, store, run, journal, self._why_lost)
        self.pch = PchProvider(
            config,
            provider,
            self.types,
            lifecycle,
            self._compilers,
            store,
            self.header_removal,
            run,
            journal,
            progress,
        )

    async def configure(self, config: Config) -> None:
        """Use other limits from now on, and read the profiles again; directories stay as they are."""
        self.types.find_timeout = config.extract_timeout
        self.pch.configure(config)
        await self.pch.load_profiles()

    async def _why_lost(self, entry: Entry) -> str:
        if entry.record.kind == TYPES:
            return await self.types.why_lost(entry)
        return await self._provider.why_lost(entry)

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up behind itself."""
        await self.pch.close()
        await self.header_removal.close()
        await self.types.close()
        await self._compilers.close()
