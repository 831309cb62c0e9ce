# SPDX-License-Identifier: LGPL-2.1-or-later
"""Precompiled headers before a caller asks: those that the configuration names, for all kernels."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Protocol

from ..cache.entry import HEADERS
from ..errors import KheadersError, LimitsExceeded
from ..events import Event
from ..system.inotify import Inotify
from ..system.tasks import Background, in_thread
from .profiles import BCC
from .requests import PchRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from ..cache.cache import Cache
    from ..cache.entry import Entry
    from ..config import Config
    from ..headers.consent import Action
    from ..host.host import Host
    from ..host.installed_kernels import Change
    from ..journal import Journal
    from ..release import Release
    from .header_removal import HeaderRemoval
    from .profiles import Profiles
    from .provider import PchProvider
    from .requests import ServedPch
    from .store import PchStore

_SETTLE = 3.0  # seconds without a change before the daemon looks: a package manager writes thousands of files
_MOST_SETTLING = 20  # times
_IN_USE_AGAIN = 660.0  # seconds until headers that are in use are looked at again; see `HeaderRemoval`


class Means(Protocol):
    """What makes precompiled headers."""

    pch: PchProvider
    profiles: Profiles
    store: PchStore
    header_removal: HeaderRemoval

    def watched_directories(self) -> Iterable[Path]:
        """The directories in which something changes when a compiler or libbcc does. Blocking."""
        ...


class _Administrator:
    """The caller who has written the configuration."""

    is_interactive = False

    async def consent(self, action: Action) -> int:  # noqa: ARG002
        """Always given."""
        return os.getuid()

    async def may(self, action: Action) -> bool:  # noqa: ARG002
        """Always."""
        return True


class Ahead:
    """Makes the precompiled headers of [Ahead], one at a time, at a low priority. Belongs to the event loop.

    All are looked at when kernels, compilers, libbcc or the configuration change. What is there already takes
    milliseconds.

    Args:
        means: loads what makes them, which most daemons never need.
        on_change: is called when `describe` tells something else.
    """

    def __init__(
        self,
        host: Host,
        config: Config,
        cache: Cache,
        means: Callable[[], Means],
        journal: Journal,
        on_change: Callable[[], None],
    ) -> None:
        self._host = host
        self._config = config
        self._cache = cache
        self._means = means
        self._journal = journal
        self._on_change = on_change
        self._background = Background()
        self._task: asyncio.Task[None] | None = None
        self._is_ready = False
        self._wake = asyncio.Event()
        self._again: float | None = None
        self._kernels: frozenset[Release] = frozenset()
        # A change of the configuration drops headers that a caller had restored, too.
        self._is_reconfigured = False
        self._limit = ""
        self._state = "waiting"
        self._wanted = 0
        self._made: frozenset[tuple[str, str]] = frozenset()
        self._problems: dict[tuple[str, str, str], dict[str, str]] = {}
        self._kept: dict[str, str] = {}

    def start(self) -> None:
        """Begin, in the background, with the first look at the kernels; call it when the daemon is ready."""
        self._is_ready = True
        self._begin()

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up."""
        self._is_ready = False
        await self._background.close()

    def configure(self, config: Config) -> None:
        """Take another configuration; the profiles may have changed, too."""
        before, self._config = _settings(self._config), config
        if before != _settings(config):
            self._is_reconfigured = True
            self._become("waiting")
        self._wake.set()
        self._begin()

    def follow(self, change: Change) -> None:
        """Take note of kernels that have come or gone, or may have changed."""
        self._kernels = (self._kernels - change.changed | change.new) & change.installed
        self._wake.set()

    def describe(self) -> dict[str, object]:
        """The settings and what has become of them, fit for JSON."""
        profiles, compilers, drop_headers = _settings(self._config)
        entries = ((self._cache.named(name), key) for name, key in self._made)
        return {
            "profiles": list(profiles),
            "compilers": list(compilers),
            "drop_headers": drop_headers,
            "state": self._state if profiles else "off",
            "wanted": self._wanted if profiles else 0,
            "made": sum(entry is not None and key in entry.pchs for entry, key in entries) if profiles else 0,
            "problems": list(self._problems.values()) if profiles else [],
            "headers_kept": dict(self._kept) if profiles else {},
        }

    def _begin(self) -> None:
        if self._is_ready and self._config.ahead_profiles and (self._task is None or self._task.done()):
            self._task = self._background.start(self._run())

    async def _run(self) -> None:
        """Look at all of them whenever something changes, as long as the configuration names some."""
        with contextlib.ExitStack() as stack:
            inotify = None
            try:
                inotify = stack.enter_context(contextlib.closing(Inotify()))
            except OSError as error:
                self._limited("/usr/bin", f"inotify cannot be used: {error.strerror}")
            while True:
                await self._changed(inotify)
                if not self._config.ahead_profiles:
                    return
                try:
                    watched = await self._watch(inotify)
                    await self._look()
                    if await self._watch(inotify) != watched:
                        self._wake.set()  # what has changed in a directory before it was watched
                except KheadersError as error:  # of the cache, say
                    self._journal.report_failure(error)
                    self._become("failed")

    async def _watch(self, inotify: Inotify | None) -> set[Path]:
        """Watch what compilers and libbcc are in, and return that."""
        directories, problems = await in_thread(_watch, self._means(), inotify)
        if problems:
            self._limited(str(problems[0].filename), f"it cannot be watched: {problems[0].strerror}")
        return directories

    def _limited(self, path: str, reason: str) -> None:
        message = (
            f"A compiler that changes in {path} is noticed at the next change elsewhere, because {reason}"
        )
        if message != self._limit:
            self._limit = message
            self._journal.report(Event.WATCH_LIMITED, message, path=path)

    async def _changed(self, inotify: Inotify | None) -> None:
        """Wait until something has changed, and then until nothing changes any more."""
        loop = asyncio.get_running_loop()
        if inotify is not None:
            loop.add_reader(inotify.fileno(), self._wake.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._again):
                    await self._wake.wait()
        finally:
            if inotify is not None:
                loop.remove_reader(inotify.fileno())
        for _ in range(_MOST_SETTLING):
            if inotify is None or not inotify.drain():
                break
            await asyncio.sleep(_SETTLE)
        self._wake.clear()

    async def _look(self) -> None:
        """Make what is missing, and drop the headers if all is made."""
        self._become("working")
        means, self._again = self._means(), None
        await means.store.remove_outdated()
        problems: dict[tuple[str, str, str], dict[str, str]] = {}
        requests = await self._requests(means, problems)
        self._wanted = len(requests) + len(problems)
        made: list[ServedPch] = []
        for request in requests:
            try:
                made.append(await means.pch.get(request, _Administrator()))
            except KheadersError as error:
                self._failed(problems, error, request.profile, request.compiler, request.release)
        self._problems = problems
        keys = frozenset((served.entry.name, served.pch.record.key) for served in made)
        if not problems and keys != self._made:
            kernels = ", ".join(dict.fromkeys(request.release for request in requests))
            message = f"All {len(made)} precompiled headers of [Ahead] are made, for {kernels}"
            self._journal.report(Event.AHEAD_MADE, message, release=self._host.running)
        self._made = keys
        self._kept = {}
        if self._config.ahead_drop_headers and not problems:
            for entry, its in _by_entry(made):
                await self._drop(means.header_removal, entry, its)
        self._is_reconfigured &= self._again is not None
        self._become("failed" if problems else "done")

    async def _requests(
        self, means: Means, problems: dict[tuple[str, str, str], dict[str, str]]
    ) -> list[PchRequest]:
        """All that is wanted, of the running kernel first; profiles that do not exist are problems."""
        wanted: list[tuple[str, str]] = []
        for name in self._config.ahead_profiles:
            try:
                profile = await means.profiles.find(name)
            except KheadersError as error:
                self._failed(problems, error, name)
                continue
            # libbcc reads only what its own LLVM has compiled.
            compilers = () if profile.consumer == BCC else self._config.ahead_compilers
            wanted += [(name, compiler) for compiler in compilers or ("",)]
        most = self._config.max_pchs
        for name, compiler in wanted[most:]:
            too_many = LimitsExceeded(
                f"an entry may have {most} precompiled headers; raise MaxPCHs= in [Limits]"
            )
            self._failed(problems, too_many, name, compiler)
        running = self._host.running
        releases = [*([running] if running else []), *sorted(self._kernels - {running})]
        return [
            PchRequest(release, name, compiler=compiler, ahead=True)
            for release in releases
            for name, compiler in wanted[:most]
        ]

    def _failed(
        self,
        problems: dict[tuple[str, str, str], dict[str, str]],
        error: KheadersError,
        profile: str,
        compiler: str = "",
        release: Release | None = None,
    ) -> None:
        """Note a problem, and log it unless it was there at the last look."""
        key = (profile, compiler, error.message)
        if key not in problems and key not in self._problems:
            what = f"{profile} {f'of {release} ' if release else ''}{f'with {compiler} ' if compiler else ''}"
            self._journal.report(
                Event.AHEAD_PCH_FAILED,
                f"The precompiled header {what}could not be made ahead: {error.message}",
                release=release,
                profile=profile,
                compiler=compiler or None,
                error=error.bus_name,
            )
        problems[key] = {
            "release": release or "",
            "profile": profile,
            "compiler": compiler,
            "error": error.bus_name,
            "message": error.message,
        }

    async def _drop(self, removal: HeaderRemoval, entry: Entry, made: list[ServedPch]) -> None:
        """Drop the headers of an entry; what was found to be enough before stays as callers have left it."""
        if not entry.has_headers:
            return
        is_new = any(served.pch.record.needed is None for served in made)
        if not is_new and not self._is_reconfigured:
            self._kept[entry.release] = "they were extracted again for a caller"
            return
        why = removal.why_in_use(entry)
        if why:
            self._again = _IN_USE_AGAIN
        else:
            try:
                _, why = await removal.drop(entry, at_once=False)
            except KheadersError as error:
                why = error.message
                self._journal.report_failure(error, release=entry.release, path=str(entry.path))
        if why:
            self._kept[entry.release] = why

    def _become(self, state: str) -> None:
        self._state = state
        self._on_change()


def _settings(config: Config) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    return config.ahead_profiles, config.ahead_compilers, config.ahead_drop_headers


def _watch(means: Means, inotify: Inotify | None) -> tuple[set[Path], list[OSError]]:
    directories = set(means.watched_directories())
    return directories, inotify.watch(directories) if inotify is not None else []


def _by_entry(made: list[ServedPch]) -> list[tuple[Entry, list[ServedPch]]]:
    """What was made, by the entry with the headers as it is now; a vmlinux.h is no such entry."""
    entries = {served.entry.name: served.entry for served in made if served.entry.record.kind == HEADERS}
    return [
        (entry, [served for served in made if served.entry.name == name]) for name, entry in entries.items()
    ]
