"""Headers on request: walks the sources, shares the work, hands out what is there. Knows nothing of D-Bus."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from .authority import Action
from .cache.disk import Vanished
from .errors import (
    AccessDenied,
    Corrupt,
    InteractiveAuthorizationRequired,
    KheadersError,
    LimitsExceeded,
    ModuleFailed,
    NotAvailable,
    NotCached,
    ReleaseMismatch,
    Timeout,
)
from .extraction.treewriter import Limits
from .headers import environment
from .journal import Event
from .make import make_entry
from .served import Request, Served
from .sources import SOURCE_NAMES, Archive, Nothing, Source, Tree, Why
from .work import SharedWork, in_idle_thread, in_thread, within

if TYPE_CHECKING:
    from .authority import Caller
    from .cache.entry import Entry
    from .config import Config
    from .host import Host
    from .journal import Journal
    from .keeper import Keeper
    from .progress import Progress
    from .release import Release
    from .sources import Report
    from .sources.package import PackageSource
    from .sources.tree import TreeSource

F = TypeVar("F", bound=Exception)

# What a source may have that is of no use. The search goes on, but if nothing else is found, this is what the
# caller gets to know.
_UNUSABLE = (Corrupt, ReleaseMismatch, ModuleFailed, Timeout)
# Somebody who removes the cache while an entry is made must not fail the request.
_ATTEMPTS = 3
_PATIENCE = 0.1
"""Seconds that callers wait for the answer about another who asks for the same."""
# Callers who wait for apt to tell whether it has a package.
_MOST_ASKING = 64


_Failures = dict[str, Nothing | KheadersError]
"""Why each source has no headers."""


class Provider:
    """Finds and makes headers. All methods belong to the event loop; what blocks is done in threads."""

    def __init__(
        self,
        host: Host,
        config: Config,
        keeper: Keeper,
        sources: Mapping[str, Source],
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._host = host
        self._config = config
        self._keeper = keeper
        self._cache = keeper.cache
        self._sources = sources
        self._journal = journal
        self._progress = progress
        self._work = SharedWork()
        self._served: dict[str, Served] = {}
        self._asking = 0
        self._consenting: dict[Request, asyncio.Event] = {}

    def configure(self, config: Config) -> None:
        """Use other limits, for what is begun from now on."""
        self._config = config

    async def close(self) -> None:
        """Give up all work, and wait until it has cleaned up behind itself."""
        await self._work.close()

    # What is there

    def ready(self, request: Request) -> Served | None:
        """What can be handed out at once, checked at this moment; tens of microseconds.

        None also when it takes a longer look to know: `get` looks longer.
        """
        if request.sources[0] == "tree":
            known, tree = self._tree_source.present(request.release)
            if tree is not None:
                return self._in_place(request.release, tree)
            if not known:
                return None
        return self._cached(request)

    async def lookup(self, release: Release) -> Served:
        """What is there for a release, from whatever source, without making anything.

        Raises:
            NotCached: nothing is.
        """
        request = Request(release, SOURCE_NAMES)
        served = self.ready(request)
        if served is None:
            try:
                served = await self._find_tree(release)
            except Nothing as nothing:
                served = self._cached(request)
                if served is None:
                    raise NotCached(
                        f"there are no headers for {release} now: the cache has none, and {nothing.message}; "
                        "GetHeaders makes them"
                    ) from None
        return served

    def _cached(self, request: Request) -> Served | None:
        entry = self._cache.find(request.release)
        if entry is None or entry.record.source not in request.sources or not self._is_current(entry):
            return None
        if not self._cache.check(entry):
            self._keeper.found_damaged(entry, "some of its files were deleted or changed")
            return None
        last_used = self._cache.touch(entry)
        served = self._served.get(entry.name)
        if served is None or served.entry is not entry or served.last_used != last_used:
            served = self._served[entry.name] = self._from_entry(entry, fresh=False)
        return served

    def _is_current(self, entry: Entry) -> bool:
        """Whether the entry is still what its source would give: of the same kernel build, the same file."""
        record = entry.record
        if (
            record.build_id
            and record.release == self._host.running
            and record.build_id != self._host.build_id
        ):
            return False
        if not record.origin_stamp:
            return True
        stamp = self._sources[record.source].stamp(record.origin)
        # Distributions delete a kernel's modules while it still runs; what was made from them stays good.
        return stamp in ("", record.origin_stamp)

    def _in_place(self, release: Release, tree: Tree) -> Served:
        served = self._served.get(release)
        if served is None or served.tree != tree:
            served = Served(release, "tree", tree, False, environment(tree, release, self._host))
            self._served[release] = served
        return served

    def describe(self, entry: Entry) -> Served:
        """An entry as it would be served, unchecked."""
        return self._from_entry(entry, fresh=False)

    def _from_entry(self, entry: Entry, *, fresh: bool) -> Served:
        tree = Tree(entry.path, entry.path)
        return Served(
            entry.release,
            entry.record.source,
            tree,
            fresh,
            environment(tree, entry.release, self._host),
            entry,
            entry.last_used,
        )

    # What has to be made

    async def get(self, request: Request, caller: Caller) -> Served:
        """Headers for a request: those that are there, else from the first source that has them.

        Whoever asks for the same at the same time shares the work, and needs no consent for what is already
        under way: its result is everybody's to read.

        Raises:
            NotAvailable: no source has them; the message says why not for each.
            Corrupt, ReleaseMismatch, ModuleFailed: the best that a source had was of no use.
            NoSpace, Timeout: they could not be made.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not do what it takes.
        """
        if request.refresh:
            await caller.consent(Action.MANAGE)
        failures: _Failures = {}
        for phase in _phases(request):
            served = None if request.refresh else self.ready(request)
            if served is None:
                served = await self._run_phase(phase, caller, failures)
            if served is not None:
                return served
        raise _verdict(request.release, failures)

    async def _run_phase(self, phase: Request, caller: Caller, failures: _Failures) -> Served | None:
        first = phase.sources[0]
        try:
            if first == "tree":
                return await self._find_tree(phase.release)
            uid = None
            if first == "package":
                uid = await self._consent_to_download(phase, caller, failures)
            elif not self._work.under_way(phase):
                uid = await self._consent_to_extract(phase, caller)
            if not phase.refresh and (served := self._cached(phase)):
                return served
            return await self._work.share(phase, lambda: self._walk(phase, uid))
        except Nothing as nothing:
            failures[first] = _bare(nothing)
        except _Failed as failed:
            failures.update(failed.failures)
        return None

    async def extract_ahead(self, release: Release) -> None:
        """Make headers of an installed kernel from its module file, unless there is an entry that is good.

        Raises:
            Nothing: it has no module file.
            KheadersError: the file is of no use, or the entry could not be made.
        """
        entry = self._cache.find(release)
        if entry is not None and self._is_current(entry) and self._cache.check(entry):
            return
        phase = Request(release, ("module-file",), ahead=True)
        try:
            await self._work.share(phase, lambda: self._walk(phase, None))
        except _Failed as failed:
            raise failed.failures["module-file"] from None

    async def _find_tree(self, release: Release) -> Served:
        tree = await self._work.share(("tree", release), lambda: self._tree_source.find(release, _ignore))
        return self._in_place(release, tree)

    async def _consent_to_extract(self, phase: Request, caller: Caller) -> int | None:
        """Ask, unless somebody who asked for the same just before may: then the work is under way.

        Returns:
            The uid of who was asked about, None if nobody needed to be.
        """
        if (asking := self._consenting.get(phase)) is not None:
            await asking.wait()
            if self._work.under_way(phase):
                return None
        asking = self._consenting[phase] = asyncio.Event()
        patience = asyncio.get_running_loop().call_later(_PATIENCE, asking.set)
        try:
            return await caller.consent(Action.EXTRACT)
        finally:
            patience.cancel()
            asking.set()
            if self._consenting.get(phase) is asking:
                del self._consenting[phase]

    async def _consent_to_download(self, phase: Request, caller: Caller, failures: _Failures) -> int:
        """Ask about a download.

        Nobody is asked for a password if there is nothing to be had. But to know that costs a second of apt's
        time, so whoever cannot be asked is refused without it: any user can ask for any number of releases.

        Args:
            failures: of the sources that were tried before.

        Raises:
            Nothing: no package has the headers, or the caller, who tried other sources too, may not have it.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have it.
            LimitsExceeded: too many are waiting for apt.
        """
        try:
            if caller.is_interactive:
                await self._offered(phase.release)
            uid = await caller.consent(Action.DOWNLOAD)
        except (AccessDenied, InteractiveAuthorizationRequired) as refusal:
            if failures:
                raise Nothing(Why.NOT_AUTHORISED, refusal.message) from None
            raise
        await self._offered(phase.release)
        return uid

    async def _offered(self, release: Release) -> None:
        """Raises Nothing if it is known that no package has the headers."""
        source = cast("PackageSource", self._sources["package"])
        key = ("offered", release)
        if not self._work.under_way(key) and self._asking >= _MOST_ASKING:
            raise LimitsExceeded("too many releases are being looked for in packages; try again in a minute")
        self._asking += 1
        try:
            await self._work.share(key, lambda: source.offered(release))
        finally:
            self._asking -= 1

    async def _walk(self, phase: Request, uid: int | None) -> Served:
        """Ask the sources of a phase in turn.

        Raises:
            _Failed: none of them has headers.
        """
        failures: dict[str, Nothing | KheadersError] = {}
        downloads = phase.sources[0] == "package"
        limit = self._config.download_timeout if downloads else self._config.extract_timeout
        if downloads:
            self._journal.report(
                Event.DOWNLOAD_STARTED,
                f"Downloading the headers package of {phase.release}",
                release=phase.release,
                source="package",
                client_uid=uid,
            )
        for name in phase.sources:
            if name == "module" and isinstance(failures.get("sysfs"), _UNUSABLE):
                continue  # it would read the very same file
            try:
                with self._progress.of(phase.release, name) as report:
                    return await within(
                        limit,
                        self._make(phase, name, uid, report),
                        lambda name=name: Timeout(  # type: ignore[misc]
                            f"source {name} took longer than {limit:g} s for {phase.release}; "
                            "see ExtractTimeout= and DownloadTimeout= in kheadersd.conf(5)"
                        ),
                    )
            except (Nothing, *_UNUSABLE) as failure:
                failures[name] = _bare(failure)
        raise _Failed(failures)

    async def _make(self, phase: Request, name: str, uid: int | None, report: Report) -> Served:
        offer = await self._sources[name].find(phase.release, report)
        if isinstance(offer, Tree):
            return self._in_place(phase.release, offer)
        return await self._work.share(
            ("extract", phase.release, offer.digest, phase.refresh),
            lambda: self._extract(phase, name, offer, uid, report),
        )

    async def _extract(
        self, phase: Request, name: str, archive: Archive, uid: int | None, report: Report
    ) -> Served:
        if not phase.refresh and (entry := await self._confirm(phase.release, name, archive)):
            return self._from_entry(entry, fresh=False)
        limits = Limits(max_files=self._config.max_files, max_bytes=self._config.max_bytes)
        run = in_idle_thread if phase.ahead else in_thread
        started = time.monotonic()
        for attempt in itertools.count(1):
            cancelled = threading.Event()
            try:
                published = await run(
                    make_entry,
                    self._cache,
                    phase.release,
                    name,
                    archive,
                    limits,
                    report,
                    cancelled,
                    cancelled=cancelled,
                )
                break
            except Vanished:
                if attempt == _ATTEMPTS:
                    raise
        self._keeper.added(published, time.monotonic() - started, uid)
        return self._from_entry(published.entry, fresh=True)

    async def _confirm(self, release: Release, name: str, archive: Archive) -> Entry | None:
        """The entry that was made from the very same archive, if it is as it should be."""
        entry = self._cache.named(release, archive.digest)
        if entry is None or not self._cache.check(entry):
            return None
        record = dataclasses.replace(
            entry.record,
            source=name,
            origin=archive.origin,
            origin_stamp=archive.origin_stamp,
            build_id=archive.build_id,
        )
        if record != entry.record:
            await in_thread(self._cache.rewrite, entry, record)
            entry.record = record
        self._cache.prefer(entry)
        self._cache.touch(entry)
        return entry

    @property
    def _tree_source(self) -> TreeSource:
        return cast("TreeSource", self._sources["tree"])


class _Failed(Exception):
    """No source of a phase has headers."""

    def __init__(self, failures: Mapping[str, Nothing | KheadersError]) -> None:
        super().__init__()
        self.failures = failures


def _phases(request: Request) -> Iterator[Request]:
    """Split a request where the consent it takes changes: none, to extract, or to download."""
    for _, names in itertools.groupby(
        request.sources, lambda name: name if name in ("tree", "package") else "local"
    ):
        yield dataclasses.replace(request, sources=tuple(names))


def _bare(failure: F) -> F:
    """A failure that is kept, without the frames that it came through: one of them keeps it."""
    failure.__context__ = None
    return failure.with_traceback(None)


def _verdict(release: Release, failures: Mapping[str, Nothing | KheadersError]) -> KheadersError:
    reasons = "; ".join(f"{name}: {failure}" for name, failure in failures.items())
    for failure in failures.values():
        if isinstance(failure, _UNUSABLE):
            others = "; ".join(f"{name}: {other}" for name, other in failures.items() if other is not failure)
            return type(failure)(failure.message + (f" (also tried: {others})" if others else ""))
    return NotAvailable(f"no source has headers for {release}: {reasons}")


def _ignore(stage: str, fraction: float) -> None:
    """A `Report` for what is too short to be reported."""
