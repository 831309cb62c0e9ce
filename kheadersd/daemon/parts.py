# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wiring: makes all parts of a daemon, starts and ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..cache.cache import Cache
from ..cache.leases import Lease, Leases
from ..cache.lifecycle import Lifecycle
from ..errors import Corrupt, KheadersError
from ..events import Event
from ..headers.existing import ExistingHeaders
from ..headers.export import Exports
from ..headers.extraction import Extraction
from ..headers.prefetch import Prefetch
from ..headers.provider import Provider, sources_ahead
from ..host.kernel_module import KernelModule
from ..pch.ahead import Ahead
from ..progress import Progress
from ..sources.sources import Sources
from ..system.tasks import in_thread
from .failures import Failures
from .metrics import Metrics
from .watch import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from ..cache.entry import Entry
    from ..config import Config
    from ..host.host import Host
    from ..host.kernel_module import Loader
    from ..journal import Journal
    from ..release import Release
    from .derived import Derived
    from .observer import Observer


class Parts:
    """All parts behind the interface, as attributes. Belongs to the event loop."""

    def __init__(
        self,
        host: Host,
        config: Config,
        cache_directory: Path,
        journal: Journal,
        loader: Loader,
        observer: Observer,
    ) -> None:
        self.host = host
        self.config = config
        self.journal = journal
        self.failures = Failures(journal, observer.changed)
        self.metrics = Metrics()
        self._observer = observer
        self._derived: Derived | None = None
        self.cache = Cache(cache_directory)
        self.leases = Leases(
            cache_directory / ".leases",
            max_total=config.max_leases,
            max_per_uid=config.max_leases_per_user,
            on_change=self._leases_changed,
            on_end=self._lease_ended,
        )
        self.module = KernelModule(host, loader, self._module_changed)
        self.exports = Exports(self._export_failed)
        self.progress = Progress(self._progressed, observer.changed, self.metrics.on_work)
        self.lifecycle = Lifecycle(host, config, self.cache, self.leases, journal, observer)
        packages = cache_directory / ".packages"
        sources = Sources(host, self.module, packages, config.extra_repositories)
        self._package = sources.package
        self._registry, self._registry_files = sources.registry, sources.files
        self._configure_registry(config)
        self.existing = ExistingHeaders(host, config, self.lifecycle, sources, journal)
        extraction = Extraction(self.lifecycle, host)
        self.provider = Provider(config, self.existing, extraction, sources, journal, self.progress)
        prefetch = Prefetch(
            host, self.provider, self.lifecycle, journal, lambda: bool(sources_ahead(self.config))
        )
        self.ahead = Ahead(host, config, self.cache, lambda: self.derived, journal, observer.changed)
        self.watching = Watching(host, self.module, prefetch, self.ahead, journal, observer)

    @property
    def derived(self) -> Derived:
        """What is made from headers. Loaded when a caller first asks for it: most daemons never need it."""
        if self._derived is None:
            from .derived import Derived  # 0.8 MiB

            self._derived = Derived(
                self.host,
                self.config,
                self.provider,
                self.lifecycle,
                self.journal,
                self.progress,
                self._registry_files,
            )
        return self._derived

    async def start(self) -> None:
        """Open the cache and pick up what a predecessor left.

        Raises:
            KheadersError: the cache directory cannot be used.
        """
        await in_thread(self.cache.lock)
        # Before anything is judged: what programs work with is not removed.
        for problem in self.leases.adopt():
            self.journal.report(Event.CACHE_CLEARED, problem, path=str(self.cache.directory))
        found = await in_thread(self.cache.open, self.leases.granted_on())
        self.lifecycle.on_recovered(found)
        await self.module.recover()
        self.watching.start()

    async def configure(self, config: Config) -> None:
        """Take another configuration, and read the profiles again.

        Where the cache and the compilers are and how the module is loaded stay as they are.
        """
        self.config = config
        self.leases.limit(max_total=config.max_leases, max_per_uid=config.max_leases_per_user)
        self._configure_registry(config)
        self.existing.configure(config)
        self.provider.configure(config)
        self._package.configure(config.extra_repositories)
        self.lifecycle.pruning.configure(config)
        if self._derived is not None:
            await self._derived.configure(config)
        self.ahead.configure(config)

    async def prune(self) -> tuple[list[Release], int]:
        """Apply the retention policy; also to what was made by compilers that are not there any more."""
        if any(entry.pchs for entry in self.cache.entries()):
            await self.derived.store.remove_outdated()
        return await self.lifecycle.pruning.prune()

    async def close(self) -> None:
        """End all work, and leave nothing behind but the cache and the leases that are held."""
        await self.watching.close()
        await self.ahead.close()
        await self.exports.close()
        if self._derived is not None:
            await self._derived.close()
        await self.provider.close()
        await self.existing.close()
        await self.lifecycle.close()
        self.leases.close()
        self.cache.close()

    def _configure_registry(self, config: Config) -> None:
        self._registry.configure(config.registries, accepts_unsigned=config.registry_unsigned)
        self._registry_files.configure(config.registries, config.pch_key)

    def _progressed(self, release: str, stage: str, fraction: float) -> None:
        self._observer.progress(release, stage, fraction)  # type: ignore[arg-type]
        self._observer.changed()

    def _module_changed(self, event: Event, message: str, error: KheadersError | None) -> None:
        self.journal.report(
            event, message, release=self.host.running, error=None if error is None else error.bus_name
        )
        self._observer.changed()

    def _leases_changed(self) -> None:
        self.lifecycle.on_leases_changed()
        self._observer.changed()

    def _export_failed(self, entry: Entry, error: KheadersError) -> None:
        if isinstance(error, Corrupt) and entry in self.cache:
            self.lifecycle.verification.on_damaged(entry, error.message)
        told = error.reworded(f"an export of the headers of {entry.release} was cut short: {error.message}")
        self.journal.report_failure(told, release=entry.release, path=str(entry.path))

    def _lease_ended(self, lease: Lease) -> None:
        self.journal.report(
            Event.LEASE_ENDED,
            f"The lease of {lease.sender} on the headers of {lease.release} has ended",
            release=lease.release,
            client_uid=lease.uid,
        )
