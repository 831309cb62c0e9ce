# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernels of a host: which have come, gone, or been replaced."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from ..system.file_identity import stored_identity_at
from ..system.inotify import Inotify
from ..system.tasks import in_thread
from .module_file import locate

if TYPE_CHECKING:
    from pathlib import Path

    from ..release import Release
    from .host import Host

SETTLE = 3.0
"""Seconds without a change before the daemon looks: a package manager writes thousands of files."""

AT_MOST = 60.0
"""Seconds after which the daemon looks even if changes go on."""

INTERVAL = 60.0
"""Seconds between two looks where the kernel does not tell of all changes."""

# The directories of the module, and depmod(8)'s list, which is written last: a module in another directory
# changes that list.
_DIRECTORIES = ("", "kernel", "kernel/kernel")
_TELLING = ("modules.dep", "kernel", "kernel/kernel")
# Far more kernels than any host has: each takes three watches.
_MAX_RELEASES = 512


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """The difference between two looks.

    Attributes:
        installed: all kernels that have modules now.
        changed: those whose module file was added, removed or replaced; at the first look, all of them.
        new: those of the changed ones that have a module file.
        gone: those that had modules at the previous look.
    """

    installed: frozenset[Release]
    changed: frozenset[Release]
    new: frozenset[Release]
    gone: frozenset[Release]


@dataclasses.dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel at the last look.

    Attributes:
        stamps: change when the module file may have changed; a few stats.
        module: stamp of the module file, "" if there is none; takes tens of milliseconds to find.
        path: of the module file.
    """

    stamps: tuple[str, ...]
    module: str
    path: Path | None


class Kernels:
    """Looks at /lib/modules at start, and when something changes there.

    Args:
        on_change: awaited soon after the start, and when kernels have come or gone. What changes meanwhile is
            found afterwards.
        on_limit: called with the reason when the kernel cannot tell of all changes, so that they are noticed
            late.
    """

    def __init__(
        self,
        host: Host,
        on_change: Callable[[Change], Awaitable[None]],
        on_limit: Callable[[str], None],
        *,
        settle: float = SETTLE,
        interval: float = INTERVAL,
    ) -> None:
        self._host = host
        self._on_change = on_change
        self._on_limit = on_limit
        self._settle = settle
        self._interval = interval
        self._inotify: Inotify | None = None
        self._kernels: dict[Release, _Kernel] = {}
        self._limited = ""

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            self._inotify = Inotify()
        except OSError as error:
            self._limit(f"inotify cannot be used: {error.strerror}")
        is_first = True
        try:
            while True:
                await self._quiet()
                before = self._kernels
                self._kernels, complete = await in_thread(self._look)
                change = _compare(before, self._kernels)
                if is_first or change.changed or change.gone:
                    await self._on_change(change)
                is_first = False
                await self._stir(None if complete else self._interval)
        finally:
            if self._inotify is not None:
                self._inotify.close()

    async def _quiet(self) -> None:
        """Wait until nothing changes any more, in directories that are new either."""
        end = asyncio.get_running_loop().time() + AT_MOST
        while True:
            await in_thread(self._watch)
            await asyncio.sleep(self._settle)
            if self._inotify is None or not self._inotify.drain() or asyncio.get_running_loop().time() > end:
                return

    async def _stir(self, limit: float | None) -> None:
        """Wait until something changes, or for so many seconds.

        The descriptor is not read meanwhile: of a thousand changes, only the first wakes the daemon.
        """
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()
        if self._inotify is not None:
            loop.add_reader(self._inotify.fileno(), changed.set)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit):
                    await changed.wait()
        finally:
            if self._inotify is not None:
                loop.remove_reader(self._inotify.fileno())

    # In a thread

    def _look(self) -> tuple[dict[Release, _Kernel], bool]:
        """The kernels that are installed, and whether the kernel tells of all changes. Blocking.

        The watches come first, so that a change meanwhile is noticed.
        """
        complete = self._watch()
        found = {}
        for release in sorted(self._host.installed_releases())[:_MAX_RELEASES]:
            found[release] = self._look_at(release, self._kernels.get(release))
        return found, complete

    def _look_at(self, release: Release, known: _Kernel | None) -> _Kernel:
        if known is not None and self._stamps(release, known.path) == known.stamps:
            return known
        path = locate(self._host, release)
        return _Kernel(self._stamps(release, path), stored_identity_at(str(path)) if path else "", path)

    def _stamps(self, release: Release, path: Path | None) -> tuple[str, ...]:
        directories = self._host.modules_directories(release)
        names = [str(directory / name) for directory in directories for name in _TELLING]
        return tuple(map(stored_identity_at, [*names, str(path)] if path else names))

    def _watch(self) -> bool:
        """Watch what can change; whether that is all of it."""
        if self._inotify is None:
            return False
        try:
            modules = self._host.resolve(self._host.path("lib/modules"))
            names = sorted(os.listdir(modules))
        except OSError:
            return False  # an image, or a container; the next look tries again
        problems = self._inotify.watch(self._directories(modules, names[:_MAX_RELEASES]))
        if problems:
            self._limit(f"{problems[0].filename} cannot be watched: {problems[0].strerror}")
        else:
            self._limited = ""
        return not problems and len(names) <= _MAX_RELEASES

    def _directories(self, modules: Path, names: list[str]) -> Iterator[Path]:
        yield modules
        for name in names:
            for part in _DIRECTORIES:
                with contextlib.suppress(OSError):
                    yield self._host.resolve(modules / name / part)

    def _limit(self, reason: str) -> None:
        if reason != self._limited:
            self._limited = reason
            self._on_limit(reason)


def _compare(before: dict[Release, _Kernel], now: dict[Release, _Kernel]) -> Change:
    changed = frozenset(
        release
        for release, kernel in now.items()
        if release not in before or kernel.module != before[release].module
    )
    new = frozenset(release for release in changed if now[release].module)
    return Change(frozenset(now), changed, new, frozenset(before.keys() - now.keys()))
