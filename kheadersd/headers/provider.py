# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers on request: which source gives them, with which consent, and what callers share. Knows no D-Bus."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import (
    AccessDenied,
    Corrupt,
    InteractiveAuthorizationRequired,
    KheadersError,
    LimitsExceeded,
    NoSpace,
    NotAvailable,
    ReleaseMismatch,
    Timeout,
)
from ..events import Event
from ..names import ADVICE, MODULE, MODULE_FILE, PACKAGE, REGISTRY, SYSFS, TREE
from ..sources.source import NotFound
from ..system.tasks import SharedWork
from . import restore
from .consent import Action, Consent
from .extraction import Found
from .limits import DOWNLOADING, in_time, limits_of
from .requests import Request, Served

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..config import Config
    from ..journal import Journal
    from ..progress import Progress, Report
    from ..release import Release
    from ..sources.sources import Sources
    from .consent import Caller
    from .existing import ExistingHeaders
    from .extraction import Extraction

_REFUSALS = (AccessDenied, InteractiveAuthorizationRequired)
# No other source would make a difference.
_FINAL = (NoSpace, LimitsExceeded)


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Why a source gave no headers.

    Attributes:
        error: what is wrong with what the source has, or with the source; None if it just has none.
    """

    source: str
    message: str
    error: KheadersError | None

    @classmethod
    def of(cls, source: str, error: NotFound | KheadersError) -> Failure:
        """The failure of a source."""
        return cls(source, error.message, None if isinstance(error, NotFound) else error)


class _Unserved(Exception):
    """A source gave no headers. The next one may have them."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def sources_ahead(config: Config) -> tuple[str, ...]:
    """The sources that are asked before any caller asks, in this order; () for none."""
    first = (REGISTRY,) if config.registry_first and config.registries else ()
    return tuple(name for name in (*first, MODULE_FILE) if name in config.sources)


class Provider:
    """Gets headers that are not there from the first source that has them. Belongs to the event loop.

    Attributes:
        existing: finds those that are there.
    """

    def __init__(
        self,
        config: Config,
        existing: ExistingHeaders,
        extraction: Extraction,
        sources: Sources,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._config = config
        self.existing = existing
        self._extraction = extraction
        self._sources = sources
        self._journal = journal
        self._progress = progress
        self._work = SharedWork()
        self._consent = Consent(sources.package, sources.registry, self._work)

    def configure(self, config: Config) -> None:
        """Use other limits, for what starts from now on."""
        self._config = config

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up behind itself."""
        await self._work.close()
        await self._extraction.close()
        await self._sources.package.close()

    async def get(self, request: Request, caller: Caller) -> Served:
        """Headers for a request: those that are there, else from the first source that has them.

        Callers that ask for the same at the same time share the work. Those that join it need no consent: its
        result is readable for every user.

        Raises:
            NotAvailable: no source has them; the message says why not for each.
            Corrupt, ReleaseMismatch, ModuleFailed: what the first such source has cannot be used.
            NoSpace, Timeout: they could not be made.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not do what it takes.
        """
        if request.refresh:
            await caller.consent(Action.MANAGE)
        failures: list[Failure] = []
        for phase in self._phases(request):
            served = None if request.refresh else self.existing.ready(request)
            result = served or await self._get(phase, caller)
            if isinstance(result, Served):
                return result
            failures += result
        raise _error(request.release, failures, await self._sources.advice(request.release))

    async def get_entry(self, release: Release, caller: Caller) -> Entry:
        """The entry with the headers that a release is served with; a tree in place is copied into one.

        Raises:
            As `get` and `copied`.
        """
        served = await self.get(Request(release, self._config.sources), caller)
        return served.entry or await self._copied(served, caller)

    async def copied(self, served: Served, caller: Caller) -> Served:
        """The same headers from an entry: a tree in place is copied into one, unless that is there.

        The files of a tree in place can change at any time; those of an entry do not.

        Raises:
            Corrupt: the tree cannot be copied; the message says what of it.
            NoSpace, Timeout: the copy could not be made.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have it made.
        """
        if served.entry is not None:
            return served
        return self.existing.describe(await self._copied(served, caller))

    async def prefetch(self, release: Release) -> None:
        """Extract the headers of an installed kernel from its module file, unless its entry is good.

        With RegistryFirst=yes the registries are asked before: root consents by the configuration.

        Raises:
            NotAvailable: it has no module file, and no registry its headers.
            KheadersError: what there is cannot be used, or the entry cannot be made.
        """
        if not self.existing.is_cached(release):
            sources = sources_ahead(self._config)
            result = await self._search(Request(release, sources, ahead=True), None)
            if not isinstance(result, Served):
                raise _error(release, result)

    async def why_not_restorable(self, entry: Entry) -> str:
        """Why no source could give the headers of an entry again, see `restore`; "" if one can."""
        return await restore.why_not_restorable(entry, self._sources, self._config)

    def _phases(self, request: Request) -> Iterator[Request]:
        """Split a request where the consent it takes changes: none, to extract, or to download.

        Without a configured registry, that source is only asked by those who ask no other.
        """
        names = request.sources
        if len(names) > 1 and not self._sources.registry.is_configured:
            names = tuple(name for name in names if name != REGISTRY)
        for _, group in itertools.groupby(
            names, lambda name: name if name == TREE or name in DOWNLOADING else "local"
        ):
            yield dataclasses.replace(request, sources=tuple(group))

    async def _get(self, phase: Request, caller: Caller) -> Served | list[Failure]:
        """Get headers from the sources of a phase, which all take the same consent."""
        name, uid = phase.sources[0], None
        try:
            if name == TREE:
                return await self.existing.find_tree(phase.release)
            if name == PACKAGE:
                uid = await self._consent.to_download(phase.release, caller, self._config)
            elif name == REGISTRY:
                uid = await self._consent.to_fetch(caller)
            else:
                uid = await self._consent.to_extract(phase, caller)
        except (NotFound, Timeout) as error:
            return [Failure.of(name, error)]
        except _REFUSALS as error:
            if name not in DOWNLOADING:
                raise
            return [Failure.of(name, error)]
        if not phase.refresh and (served := self.existing.cached(phase)):
            return served
        return await self._search(phase, uid)

    async def _search(self, phase: Request, uid: int | None) -> Served | list[Failure]:
        """Ask the sources of a phase in turn, once for all callers of the same time."""
        return await self._work.share(phase, lambda: self._search_now(phase, uid))

    async def _search_now(self, phase: Request, uid: int | None) -> Served | list[Failure]:
        failures: list[Failure] = []
        await self._extraction.check_directory()
        for name in phase.sources:
            if name in DOWNLOADING:
                self._report_download(phase.release, name, uid)
            if name == MODULE and any(failure.source == SYSFS and failure.error for failure in failures):
                continue  # it would read the very same file
            try:
                with self._progress.of(phase.release, name) as report:
                    work = self._extracted(phase, name, uid, report)
                    return await in_time(self._config, phase.release, name, work)
            except _Unserved as unserved:
                failures.append(unserved.failure)
            except Timeout as error:
                failures.append(Failure.of(name, error))
        return failures

    def _report_download(self, release: Release, name: str, uid: int | None) -> None:
        what = "Downloading the headers package" if name == PACKAGE else "Asking registries for the headers"
        self._journal.report(
            Event.DOWNLOAD_STARTED, f"{what} of {release}", release=release, source=name, client_uid=uid
        )

    async def _extracted(self, phase: Request, name: str, uid: int | None, report: Report) -> Served:
        """The headers of one source, extracted into an entry.

        Raises:
            _Unserved: the source has none, or none that can be used.
            KheadersError: the entry cannot be made, whatever the source.
        """
        try:
            archive = await self._sources.archives[name].find(phase.release, report)
        except _FINAL:
            raise
        except (NotFound, KheadersError) as error:
            raise _Unserved(Failure.of(name, error)) from None
        try:
            found = Found(phase, name, archive, limits_of(self._config), uid, report)
            entry, fresh = await self._extraction.entry(found)
        except (Corrupt, ReleaseMismatch) as error:
            raise _Unserved(Failure.of(name, error)) from None
        return self.existing.describe(entry, fresh=fresh)

    async def _copied(self, served: Served, caller: Caller) -> Entry:
        entry = await self.existing.copy_of(served.tree, served.release)
        if entry is not None and entry.has_headers:
            return entry
        uid = await caller.consent(Action.EXTRACT)
        return await self._work.share(("copy", served.release), lambda: self._copy(served, uid))

    async def _copy(self, served: Served, uid: int) -> Entry:
        with self._progress.of(served.release, TREE) as report:
            work = self._copy_now(served, uid, report)
            return await in_time(self._config, served.release, TREE, work)

    async def _copy_now(self, served: Served, uid: int, report: Report) -> Entry:
        tree, limits = self._sources.tree, limits_of(self._config)
        archive = await tree.archive(served.release, served.tree, limits)
        request = Request(served.release, (tree.name,))
        entry, _ = await self._extraction.entry(Found(request, tree.name, archive, limits, uid, report))
        tree.remember(archive.origin, archive.origin_stamp)
        return entry


def _error(release: Release, failures: list[Failure], advice: str = "") -> KheadersError:
    """What the caller is told: the first thing that cannot be used, else that no source has headers.

    Args:
        advice: how they are installed, if that is known.
    """
    texts = [f"{failure.source}: {failure.message}" for failure in failures]
    for number, failure in enumerate(failures):
        if failure.error is not None and (not isinstance(failure.error, _REFUSALS) or len(failures) == 1):
            others = "; ".join(texts[:number] + texts[number + 1 :])
            return failure.error.reworded(failure.message + (f" (also tried: {others})" if others else ""))
    texts += [f"{ADVICE}: {advice}"] if advice else []
    return NotAvailable(f"no source has headers for {release}: {'; '.join(texts)}")
