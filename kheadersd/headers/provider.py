"""Headers on request: walks the sources, shares the work, hands out what is there. Knows nothing of D-Bus."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import threading
from collections.abc import Awaitable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar, cast

from ..cache.entry import HEADERS
from ..errors import (
    AccessDenied,
    Corrupt,
    InteractiveAuthorizationRequired,
    KheadersError,
    LimitsExceeded,
    NoSpace,
    NotAvailable,
    NotCached,
    ReleaseMismatch,
    Timeout,
)
from ..journal import Event
from ..progress import unreported
from ..sources import tree_copy as snapshot
from ..sources.installed_tree import NOT_LOOKED_AT
from ..sources.source import Limits, NotFound, Source, Tree
from ..system.tasks import SharedWork, in_thread, within
from .consent import Action, Consent
from .environment import environment
from .extraction import Extraction
from .requests import Request, Served
from .restore import Restoration

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.lifecycle import Keeper
    from ..config import Config
    from ..host.host import Host
    from ..journal import Journal
    from ..progress import Progress, Report
    from ..release import Release
    from ..sources.installed_tree import TreeSource
    from ..sources.package import PackageSource
    from .consent import Caller

F = TypeVar("F", bound=Exception)
T = TypeVar("T")

Failures = dict[str, NotFound | KheadersError]
"""Why each source has no headers, by the source's name."""

_REFUSALS = (AccessDenied, InteractiveAuthorizationRequired)
# No other source would make a difference.
_FINAL = (NoSpace, LimitsExceeded)


# What was handed out is remembered, so that it need not be put together again.
_MAX_SERVED = 256


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
        self._extraction = Extraction(keeper, host)
        self._consent = Consent(self._offered)
        self._restoration = Restoration(host, sources, self._offered, self._within)

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

    async def lookup(self, request: Request) -> Served:
        """What is there for a release, without making anything.

        Raises:
            NotCached: nothing is.
        """
        served = self.ready(request)
        if served is None and "tree" in request.sources:
            with contextlib.suppress(NotFound, Timeout):
                served = await self._find_tree(request.release)
        if served is None:
            served = self._cached(request)
        if served is None:
            raise NotCached(
                f"there are no headers for {request.release} now, or none that are still good; "
                "GetHeaders makes them"
            )
        return served

    def _cached(self, request: Request) -> Served | None:
        entry = self._entry(request)
        if entry is None or not entry.has_headers:
            return None
        last_used = self._cache.touch(entry)
        served = self._served.get(entry.name)
        if served is None or served.entry is not entry or served.last_used != last_used:
            if len(self._served) >= _MAX_SERVED:
                self._served.clear()
            served = self._served[entry.name] = self._from_entry(entry, fresh=False)
        return served

    def _entry(self, request: Request) -> Entry | None:
        """The preferred entry, which may have no headers any more."""
        entry = self._cache.find(request.release)
        if entry is None or entry.record.source not in request.sources or not self.is_current(entry):
            return None
        if entry.on_trial:
            return None
        if not self._cache.check(entry):
            if entry.has_headers and self._keeper.is_being_replaced(entry):
                return entry  # by one of the same archive, which is complete
            self._keeper.found_damaged(entry, "some of its files were deleted or changed")
            return None
        return entry

    def base(self, release: Release) -> Entry | None:
        """The entry that precompiled headers of a release are made from, if it is there now.

        It need not have its headers any more: what was made from them is still good. None also when nobody
        has looked for a while whether they are still the same: await `look_again` before.
        """
        request = Request(release, self._config.sources)
        if request.sources[:1] == ("tree",):
            known, tree = self._tree_source.present(release)
            if tree is not None:
                return self._snapshot_of(tree, release)
            if not known:
                return None
        return self._entry(request)

    async def look_again(self, release: Release) -> None:
        """Find out what `base` has to know of trees in place; nothing to do within 2 seconds, else 0.1 s."""
        if "tree" not in self._config.sources:
            return
        if not self._tree_source.present(release)[0]:
            with contextlib.suppress(NotFound, Timeout):
                await self._find_tree(release)
        records = [entry.record for entry in self._cache.all_of(release)]
        for origin in {record.origin for record in records if record.source == "tree"}:
            if self._tree_source.stamp(origin) == NOT_LOOKED_AT:
                await self._work.share(("look", origin), functools.partial(self._look_at, release, origin))

    async def _look_at(self, release: Release, origin: str) -> None:
        cancelled = threading.Event()
        work = (self._host, release, origin, self._limits, cancelled)
        looking = in_thread(snapshot.look, *work, cancelled=cancelled)
        try:
            stamp = await self._within(release, "tree", looking)
        except (Corrupt, Timeout):
            return  # whoever wants it copied gets to know why it cannot be
        self._tree_source.remember(origin, stamp)

    def _snapshot_of(self, tree: Tree, release: Release) -> Entry | None:
        origin = snapshot.origin(tree)
        for entry in self._cache.all_of(release):
            record = entry.record
            if (record.source, record.origin) == ("tree", origin) and self.is_current(entry):
                return entry if self._cache.check(entry) else None
        return None

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
        stamp = self._sources[record.source].stamp(record.origin)
        # Distributions delete a kernel's modules while it still runs; what was made from them stays good.
        return stamp in ("", record.origin_stamp)

    def _in_place(self, release: Release, tree: Tree) -> Served:
        served = self._served.get(release)
        if served is None or served.tree != tree:
            served = Served(release, "tree", tree, False, environment(tree, release, self._host))
            self._served[release] = served
            if tree.randomised:
                self._journal.report(
                    Event.RANDOMISED, served.warnings[0], release=release, path=str(tree.build_tree)
                )
        return served

    def describe(self, entry: Entry) -> Served:
        """An entry as it would be served, unchecked."""
        return self._from_entry(entry, fresh=False)

    def _from_entry(self, entry: Entry, *, fresh: bool) -> Served:
        tree = Tree(entry.path, entry.path, entry.record.randomised)
        variables = environment(tree, entry.release, self._host) if entry.record.kind == HEADERS else {}
        return Served(entry.release, entry.record.source, tree, fresh, variables, entry, entry.last_used)

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
        failures: Failures = {}
        for phase in _phases(request):
            served = None if request.refresh else self.ready(request)
            if served is None:
                served = await self._run_phase(phase, caller, failures)
            if served is not None:
                return served
        raise _verdict(request.release, failures)

    async def _run_phase(self, phase: Request, caller: Caller, failures: Failures) -> Served | None:
        first = phase.sources[0]
        try:
            if first == "tree":
                return await self._find_tree(phase.release)
            uid = None
            if first == "package":
                uid = await self._consent.to_download(phase.release, caller)
            elif not self._work.under_way(phase):
                uid = await self._consent.to_extract(phase, caller, begun=lambda: self._work.under_way(phase))
            if not phase.refresh and (served := self._cached(phase)):
                return served
            return await self._work.share(phase, lambda: self._walk(phase, uid))
        except (NotFound, Timeout) as failure:
            failures[first] = _bare(failure)
        except _REFUSALS as refusal:
            if first != "package":
                raise
            failures[first] = _bare(refusal)
        except _Failed as failed:
            failures.update(failed.failures)
        return None

    async def make_base(self, release: Release, caller: Caller) -> Entry:
        """An entry that has its headers, to make something from.

        Headers that are served in place are copied into one: others may change them at any time, and what is
        made from them must not change.

        Raises:
            As `get`.
        """
        served = await self.get(Request(release, self._config.sources), caller)
        return served.entry or await self._copied(served, caller)

    async def in_cache(self, served: Served, caller: Caller) -> Served:
        """The same headers from an entry: a tree in place is copied into one, as far as the copier may.

        Raises:
            Corrupt: the tree cannot be copied; the message says what of it.
            NoSpace, Timeout: the copy could not be made.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have it made.
        """
        if served.entry is not None:
            return served
        return self._from_entry(await self._copied(served, caller), fresh=False)

    async def _copied(self, served: Served, caller: Caller) -> Entry:
        release = served.release
        await self.look_again(release)
        entry = self._snapshot_of(served.tree, release)
        if entry is not None and entry.has_headers:
            return entry
        uid = await caller.consent(Action.EXTRACT)
        return await self._work.share(("copy", release), lambda: self._copy(served, uid))

    async def _copy(self, served: Served, uid: int) -> Entry:
        request = Request(served.release, ("tree",))
        with self._progress.of(served.release, "tree") as report:
            return await self._within(served.release, "tree", self._copy_now(served, request, uid, report))

    async def _copy_now(self, served: Served, request: Request, uid: int, report: Report) -> Entry:
        cancelled = threading.Event()
        limits = self._limits
        work = (self._host, served.release, served.tree, limits, cancelled)
        archive = await in_thread(snapshot.snapshot, *work, cancelled=cancelled)
        entry, _ = await self._extraction.entry(request, "tree", archive, uid, limits, report)
        self._tree_source.remember(archive.origin, archive.origin_stamp)
        return entry

    @property
    def _limits(self) -> Limits:
        return Limits(max_files=self._config.max_files, max_bytes=self._config.max_bytes)

    async def extract_ahead(self, release: Release) -> None:
        """Make headers of an installed kernel from its module file, unless there is an entry that is good.

        Raises:
            NotFound: it has no module file.
            KheadersError: the file is of no use, or the entry could not be made.
        """
        entry = self._cache.find(release)
        if entry is not None and self.is_current(entry) and self._cache.check(entry):
            return
        phase = Request(release, ("module-file",), ahead=True)
        try:
            await self._work.share(phase, lambda: self._walk(phase, None))
        except _Failed as failed:
            raise failed.failures["module-file"] from None

    async def _find_tree(self, release: Release) -> Served:
        finding = self._work.share(("tree", release), lambda: self._tree_source.find(release, unreported))
        tree = await self._within(release, "tree", finding)
        return self._in_place(release, tree)

    async def _within(self, release: Release, source: str, work: Awaitable[T]) -> T:
        """Wait for a source, as long as the configuration lets it take.

        Raises:
            Timeout: it takes longer.
        """
        setting = "DownloadTimeout=" if source == "package" else "ExtractTimeout="
        limit = self._config.download_timeout if source == "package" else self._config.extract_timeout

        def late() -> Timeout:
            return Timeout(f"source {source} took longer than {limit or 0:g} s for {release}; see {setting}")

        return await within(limit, work, late)

    async def why_lost(self, entry: Entry) -> str:
        """Why no source could give the headers of an entry again, see `restore`; "" if one can."""
        return await self._restoration.why_lost(entry, self._config.sources, self._limits)

    async def _offered(self, release: Release) -> str | None:
        source = cast("PackageSource", self._sources["package"])
        asking = self._work.share(("offered", release), lambda: source.offered(release))
        return await self._within(release, "package", asking)

    async def _walk(self, phase: Request, uid: int | None) -> Served:
        """Ask the sources of a phase in turn.

        Raises:
            _Failed: none of them has headers.
        """
        failures: Failures = {}
        if phase.sources[0] == "package":
            self._journal.report(
                Event.DOWNLOAD_STARTED,
                f"Downloading the headers package of {phase.release}",
                release=phase.release,
                source="package",
                client_uid=uid,
            )
        for name in phase.sources:
            if name == "module" and isinstance(failures.get("sysfs"), KheadersError):
                continue  # it would read the very same file
            try:
                with self._progress.of(phase.release, name) as report:
                    return await self._within(phase.release, name, self._try(phase, name, uid, report))
            except _FINAL:
                raise
            except (NotFound, _Useless, Timeout) as failure:
                failures[name] = _bare(failure.reason if isinstance(failure, _Useless) else failure)
        raise _Failed(failures)

    async def _try(self, phase: Request, name: str, uid: int | None, report: Report) -> Served:
        """Ask one source.

        Raises:
            NotFound: it has no headers.
            _Useless: what it has, or the source itself, is of no use.
            KheadersError: the entry cannot be made, whatever the source.
        """
        try:
            offer = await self._sources[name].find(phase.release, report)
        except KheadersError as error:
            raise error if isinstance(error, _FINAL) else _Useless(error) from None
        if isinstance(offer, Tree):
            return self._in_place(phase.release, offer)
        limits = self._limits
        key = ("extract", phase.release, offer.digest, phase.refresh, phase.ahead)
        try:
            entry, fresh = await self._work.share(
                key, lambda: self._extraction.entry(phase, name, offer, uid, limits, report)
            )
        except (Corrupt, ReleaseMismatch) as error:
            raise _Useless(error) from None
        return self._from_entry(entry, fresh=fresh)

    @property
    def _tree_source(self) -> TreeSource:
        return cast("TreeSource", self._sources["tree"])


class _Useless(Exception):
    """The search goes on, but if nothing else is found, this is what the caller gets to know."""

    def __init__(self, reason: KheadersError) -> None:
        super().__init__()
        self.reason = reason


class _Failed(Exception):
    """No source of a phase has headers."""

    def __init__(self, failures: Failures) -> None:
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


def _verdict(release: Release, failures: Failures) -> KheadersError:
    """What the caller gets to know: the first thing that was of no use, else that there is nothing."""
    for failure in failures.values():
        if isinstance(failure, KheadersError) and (not isinstance(failure, _REFUSALS) or len(failures) == 1):
            others = "; ".join(f"{name}: {other}" for name, other in failures.items() if other is not failure)
            return type(failure)(failure.message + (f" (also tried: {others})" if others else ""))
    reasons = "; ".join(f"{name}: {failure}" for name, failure in failures.items())
    return NotAvailable(f"no source has headers for {release}: {reasons}")
