# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is made from headers, precompiled headers and vmlinux.h: its parts, wired up when first needed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..cache.entry import HEADERS, TYPES
from ..errors import NotAvailable
from ..pch.compile import Compilation
from ..pch.compiler_run import CompilerRun
from ..pch.compilers import Compilers
from ..pch.header_removal import HeaderRemoval
from ..pch.libbcc import LIBBCC
from ..pch.libbcc_command import LibbccCommands
from ..pch.profiles import Profiles
from ..pch.provider import PchProvider
from ..pch.requests import Base
from ..pch.store import PchStore
from ..sandbox.queue import RunQueue
from ..sandbox.runners import compiler_runner
from ..vmlinux.provider import TypesProvider

if TYPE_CHECKING:
    from pathlib import Path

    from ..cache.lifecycle import Lifecycle
    from ..config import Config
    from ..headers.provider import Provider
    from ..host.host import Host
    from ..journal import Journal
    from ..progress import Progress
    from ..sources.registry_files import RegistryFiles

# kheaders-compile.socket takes twice as many: those that are being ended count, too.
_MOST_COMPILERS = 4


class Derived:
    """Makes files from headers. Belongs to the event loop.

    Attributes:
        types: serves vmlinux.h.
        store: has the precompiled headers of all entries.
        header_removal: drops headers once they are precompiled.
        profiles: says what is precompiled together.
        pch: serves precompiled headers.
    """

    def __init__(  # noqa: PLR0913 - all that they need of the other parts
        self,
        host: Host,
        config: Config,
        provider: Provider,
        lifecycle: Lifecycle,
        journal: Journal,
        progress: Progress,
        registry: RegistryFiles,
    ) -> None:
        run = RunQueue(compiler_runner(), _MOST_COMPILERS)
        self.types = TypesProvider(host, lifecycle, run, progress, registry, config.extract_timeout)
        bases = {
            HEADERS: Base(
                provider.existing.base,
                provider.existing.is_current,
                provider.get_entry,
                provider.why_not_restorable,
            ),
            TYPES: Base(
                self.types.base, self.types.is_current, self.types.get_entry, self.types.why_not_restorable
            ),
        }
        self.profiles = Profiles(journal)
        self._compilers = Compilers(config.compiler_directories, run, default=config.compiler)
        self._compiler_run = CompilerRun(run, config.compile_timeout)
        self.store = PchStore(lifecycle, self._compilers, self.profiles, config.max_pchs)
        self._libbcc = LibbccCommands(run)
        compilation = Compilation(
            self._compilers, self._libbcc, self.store, self._compiler_run, progress, registry
        )
        self.header_removal = HeaderRemoval(bases, lifecycle, self.store, self._compiler_run, journal)
        self.pch = PchProvider(
            bases, self.profiles, self._compilers, self.store, compilation, self.header_removal
        )

    def watched_directories(self) -> set[Path]:
        """The directories in which something changes when a compiler or libbcc does. Blocking."""
        directories = self._compilers.watched_directories()
        with contextlib.suppress(NotAvailable):
            directories.add(LIBBCC.installed().path.parent)
        return directories

    async def configure(self, config: Config) -> None:
        """Use other limits from now on, and read the profiles again; directories stay as they are."""
        self.types.find_timeout = config.extract_timeout
        self.store.most = config.max_pchs
        self._compilers.default = config.compiler
        self._compiler_run.limit(config.compile_timeout)
        await self.profiles.reload()

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up behind itself."""
        await self.pch.close()
        await self.header_removal.close()
        await self.types.close()
        await self._compilers.close()
        await self._libbcc.close()
