"""The parts of a running daemon, wired up: what there is to be served."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from .. import __version__
from ..cache.cache import Cache
from ..cache.leases import Lease, Leases
from ..cache.lifecycle import Keeper
from ..errors import (
    AccessDenied,
    Corrupt,
    InteractiveAuthorizationRequired,
    InUse,
    InvalidArgs,
    KheadersError,
    LimitsExceeded,
    NotCached,
)
from ..headers.existing import ExistingHeaders
from ..headers.export import Exports
from ..headers.extraction import Extraction
from ..headers.prefetch import Prefetch
from ..headers.provider import Provider
from ..host.kernel_module import KernelModule
from ..journal import Event
from ..progress import Progress
from ..sources.sources import Sources
from ..system.tasks import in_thread
from .watch import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..config import Config
    from ..host.host import Host
    from ..host.kernel_module import Loader
    from ..journal import Journal
    from ..release import Release
    from .observer import Observer
    from .parts import Workshop

# Refusals that say nothing about how we are doing.
_ORDINARY = (AccessDenied, InteractiveAuthorizationRequired, InUse, InvalidArgs, LimitsExceeded, NotCached)
# Seconds within which identical failures are logged once; the others are counted.
_REPEAT = 1.0


class State:
    """Everything behind the interface. Belongs to the event loop.

    Attributes:
        last_error: name and message of the last failure, ("", "") if there was none.
    """

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
        self.last_error = ("", "")
        self._told: tuple[tuple[str, str | None], float] = (("", None), 0.0)
        self._observer = observer
        self._workshop: Workshop | None = None
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
        self.progress = Progress(self._progressed, observer.changed)
        self.keeper = Keeper(host, config, self.cache, self.leases, journal, observer)
        sources = Sources(host, self.module, cache_directory / ".apt")
        self.existing = ExistingHeaders(host, config, self.keeper, sources, journal)
        extraction = Extraction(self.keeper, host)
        self.provider = Provider(config, self.existing, extraction, sources, journal, self.progress)
        prefetch = Prefetch(
            host, self.provider, self.keeper, journal, lambda: "module-file" in self.config.sources
        )
        self.watching = Watching(host, self.module, prefetch, journal, observer)

    @property
    def workshop(self) -> Workshop:
        """Where things are made from headers. Most daemons are never asked for any, and need not load it."""
        if self._workshop is None:
            from .parts import Workshop

            self._workshop = Workshop(
                self.host,
                self.config,
                self.provider,
                self.keeper,
                self.leases,
                self.journal,
                self.progress,
            )
        return self._workshop

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
        self.keeper.opened(found)
        await self.module.recover()
        self.watching.start()

    async def configure(self, config: Config) -> None:
        """Take another configuration, and read the profiles again.

        Where the cache and the compilers are and how the module is loaded stay as they are.
        """
        self.config = config
        self.leases.limit(max_total=config.max_leases, max_per_uid=config.max_leases_per_user)
        self.existing.configure(config)
        self.provider.configure(config)
        self.keeper.configure(config)
        if self._workshop is not None:
            await self._workshop.configure(config)

    async def prune(self) -> tuple[list[Release], int]:
        """Apply the retention policy; also to what was made by compilers that are not there any more."""
        if any(entry.pchs for entry in self.cache.entries()):
            await self.workshop.pch.retire()
        return await self.keeper.prune()

    async def close(self) -> None:
        """End all work, and leave nothing behind but the cache and the leases that are held."""
        await self.watching.close()
        await self.exports.close()
        if self._workshop is not None:
            await self._workshop.close()
        await self.provider.close()
        await self.existing.close()
        await self.keeper.close()
        self.leases.close()
        self.cache.close()

    def failed(self, error: KheadersError, release: str | None, uid: int | None) -> None:
        """Note that a request failed or was refused.

        Args:
            release: as the caller had it, None if it was about none.
            uid: the caller's, None if it has left.
        """
        if not isinstance(error, _ORDINARY):
            self.last_error = (error.bus_name, error.message)
            self._observer.changed()
        now = asyncio.get_running_loop().time()
        last, told_at = self._told
        again = (error.bus_name, release) == last and now - told_at < _REPEAT
        if not again:
            self._told = ((error.bus_name, release), now)
        self.journal.report_failure(error, again=again, release=release or None, client_uid=uid)

    @property
    def summary(self) -> str:
        """What is the matter, in one line."""
        entries, size = len(self.cache.entries()), self.cache.total_bytes()
        return (
            f"{self.progress.activity}; {entries} entries, {size >> 20} MiB, {len(self.leases)} leases; "
            f"kheaders is {self.module.state()}"
        )

    def describe(self) -> dict[str, object]:
        """All of the state, fit for JSON."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "time": time.time_ns() // 1000,
            "host": {
                "root": str(self.host.root),
                "running_release": self.host.running or "",
                "build_id": self.host.build_id,
            },
            "module": {"state": self.module.state(), "owned": self.module.owned},
            "activity": self.progress.activity,
            "cache": {
                "directory": str(self.cache.directory),
                "bytes": self.cache.total_bytes(),
                "entries": [
                    {
                        "release": entry.release,
                        "path": str(entry.path),
                        "source": entry.record.source,
                        "origin": entry.record.origin,
                        "digest": entry.record.digest,
                        "build_id": entry.record.build_id,
                        "bytes": entry.bytes,
                        "files": entry.record.files,
                        "extracted_at": entry.record.extracted_at,
                        "last_used": entry.last_used,
                        "durable": entry.is_durable,
                        "leases": self.leases.held(entry.name),
                        "kind": entry.record.kind,
                        "headers_kept": entry.has_headers,
                        "pchs": [_described(pch) for pch in entry.pchs.values()],
                    }
                    for entry in self.cache.entries()
                ],
                "leftovers": [
                    {
                        "path": str(leftover.directory),
                        "bytes": leftover.bytes,
                        "stays": leftover.stay.value,
                    }
                    for leftover in self.cache.leftovers
                ],
            },
            "leases": [
                {
                    "release": lease.release,
                    "sender": lease.sender,
                    "uid": lease.uid,
                    "pid": lease.pid,
                    "reason": lease.reason,
                    "since": lease.since,
                }
                for lease in self.leases.all()
            ],
            "last_error": {"name": self.last_error[0], "message": self.last_error[1]},
            "sources": list(self.config.sources),
            "retention": {
                "max_entries": self.config.max_entries,
                "max_bytes": self.config.max_size,
                "max_age_seconds": self.config.max_age,
            },
        }

    def _progressed(self, release: str, stage: str, fraction: float) -> None:
        self._observer.progress(release, stage, fraction)  # type: ignore[arg-type]
        self._observer.changed()

    def _module_changed(self, event: Event, message: str, error: KheadersError | None) -> None:
        self.journal.report(
            event, message, release=self.host.running, error=None if error is None else error.bus_name
        )
        self._observer.changed()

    def _leases_changed(self) -> None:
        self.keeper.leases_changed()
        self._observer.changed()

    def _export_failed(self, entry: Entry, error: KheadersError) -> None:
        if isinstance(error, Corrupt) and entry in self.cache:
            self.keeper.found_damaged(entry, error.message)
        told = type(error)(f"an export of the headers of {entry.release} was cut short: {error.message}")
        self.journal.report_failure(told, release=entry.release, path=str(entry.path))

    def _lease_ended(self, lease: Lease) -> None:
        self.journal.report(
            Event.LEASE_ENDED,
            f"The lease of {lease.sender} on the headers of {lease.release} has ended",
            release=lease.release,
            client_uid=lease.uid,
        )


def _described(pch: Pch) -> dict[str, object]:
    record = pch.record
    return {
        "key": record.key,
        "path": str(pch.path),
        "profile": record.profile,
        "headers": list(record.headers),
        "compiler": record.compiler,
        "compiler_version": record.compiler_version,
        "bytes": record.bytes,
        "made_at": record.made_at,
    }
