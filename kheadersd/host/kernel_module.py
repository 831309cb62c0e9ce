# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kheaders module of the running kernel: whether it is there, loaded, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from ..errors import InUse, KheadersError, ModuleFailed
from ..events import Event
from ..system.tasks import in_thread, to_the_end
from .module_file import locate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from .host import Host

Tell = Callable[[Event, str, KheadersError | None], None]

ARCHIVE = "sys/kernel/kheaders.tar.xz"
"""The module's archive, below the root; every user can read it (the kernel's kernel/kheaders.c)."""

LOADED = "sys/module/kheaders"
"""Exists while the module is loaded, and never for a built-in one."""

STATES = ("absent", "available", "loaded", "builtin")
"""What `KernelModule.state` can be."""

TIME_LIMIT = 30.0
"""Seconds for a load or an unload; it takes 0.1 to 0.3 seconds on a slow machine."""


class CannotLoad(Exception):
    """This daemon does not load modules; the message says why."""


class Loader(Protocol):
    """Loads and unloads the module, and remembers whether the daemon loaded it, also after it was killed.

    Attributes:
        is_owned: whether the daemon has loaded the module, and has not unloaded it since.
    """

    is_owned: bool

    async def load(self) -> None:
        """Load the module. If it is loaded already, nothing happens, and the daemon does not own it.

        Raises:
            CannotLoad: there is no way to load modules here.
            ModuleFailed: it could not be loaded; the message says what can be done.
            Timeout: it took longer than 30 seconds.
        """
        ...

    async def unload(self) -> None:
        """Unload the module. If it is not loaded, nothing happens.

        Raises:
            ModuleFailed: it could not be unloaded.
            Timeout: it took longer than 30 seconds.
        """
        ...

    async def restore_ownership(self) -> None:
        """Find out whether an earlier run of the daemon left the module loaded. Called once, at start."""
        ...


class NoLoader:
    """For images, and for daemons that may not load the module."""

    is_owned = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def load(self) -> None:
        """Raises CannotLoad."""
        raise CannotLoad(f"kheaders is not loaded: {self._reason}")

    async def unload(self) -> None:
        """Raises ModuleFailed."""
        raise ModuleFailed(f"kheaders is not unloaded: {self._reason}")

    async def restore_ownership(self) -> None:
        """Nothing to do: the daemon never loads the module."""


class KernelModule:
    """The module and its file in sysfs.

    Attributes:
        path: /sys/kernel/kheaders.tar.xz of the host.
    """

    def __init__(self, host: Host, loader: Loader, tell: Tell | None = None) -> None:
        """
        Args:
            tell: called with an event, a message and an error, if there is one, when the module was loaded or
                unloaded, or could not be unloaded.
        """
        self.path = host.path(ARCHIVE)
        self._tell = tell or _ignore
        self._host = host
        self._loader = loader
        self._lock = asyncio.Lock()
        self._readers = 0
        self._file: Path | None = None
        # The state, apart from the daemon's own changes: another program caused any other state.
        self._known = ""

    def state(self) -> str:
        """ "absent", "available", "loaded" or "builtin"; a few microseconds.

        Whether the module is installed is known from the last `refresh`.
        """
        if self._host.exists(self._host.path(LOADED)):
            return "loaded"
        if self._host.exists(self.path):  # a built-in kheaders has no directory in /sys/module
            return "builtin"
        return "available" if self._file is not None and self._file.exists() else "absent"

    @property
    def is_owned(self) -> bool:
        """Whether it is loaded, and the daemon has loaded it."""
        return self._loader.is_owned and self.state() == "loaded"

    async def refresh(self) -> str:
        """Look for the module file again, tens of milliseconds in a thread, and return the state."""
        if (running := self._host.running) is not None:
            self._file = await in_thread(locate, self._host, running)
        return self.state()

    async def recover(self) -> None:
        """At start: unload the module if an earlier run of the daemon loaded it and was killed."""
        async with self._lock:
            await self._loader.restore_ownership()
            await self._unload_own()
        self._known = await self.refresh()

    async def on_uevent(self) -> None:
        """Look again, and tell if another program has loaded, unloaded, installed or removed the module.

        The daemon's own loading and unloading is waited for, and is not told.
        """
        await self.refresh()
        async with self._lock:
            before, self._known = self._known, self.state()
            if self._known != before:
                self._tell(Event.MODULE_CHANGED, _what_happened(before, self._known), None)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """While this is entered, the archive is being read, and `unload_if_idle` refuses."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Load the module while this is entered, and unload it then if the daemon has loaded it.

        Only one caller at a time. A cancellation waits for the end of loading and unloading, which take at
        most 30 seconds each. A failure to unload is told, and does not fail the request.

        Raises:
            CannotLoad, ModuleFailed, Timeout: as `Loader.load`.
        """
        async with self._lock:
            with self.in_use():
                try:
                    if not self._host.exists(self.path):
                        await to_the_end(self._load())
                    yield
                finally:
                    await to_the_end(self._unload_own())

    async def unload_if_idle(self) -> str:
        """Unload the module, also one that another program has loaded. A built-in one stays.

        Returns:
            The state afterwards.

        Raises:
            InUse: its archive is being read.
            ModuleFailed: it could not be unloaded.
            Timeout: it took longer than 30 seconds.
        """
        if self._lock.locked() or self._readers:
            raise InUse("kheaders is in use: its archive is being read at this moment; try again in a second")
        async with self._lock:
            if self.state() == "loaded":
                await to_the_end(self._unload())
        return await self.refresh()

    async def _unload_own(self) -> None:
        if not self._loader.is_owned:
            return
        try:
            await self._unload()
        except KheadersError as error:
            # The request has its archive.
            self._tell(Event.MODULE_UNLOAD_FAILED, f"kheaders stays loaded: {error.message}", error)

    async def _load(self) -> None:
        await self._loader.load()
        if self._loader.is_owned:
            self._known = "loaded"
            self._tell(Event.MODULE_LOADED, "Loaded kheaders to read its archive", None)

    async def _unload(self) -> None:
        await self._loader.unload()
        self._known = self.state()
        self._tell(Event.MODULE_UNLOADED, "Unloaded kheaders", None)


def _what_happened(before: str, now: str) -> str:
    if now == "loaded":
        return "kheaders was loaded by another program; it is used, and not unloaded"
    if before == "loaded":
        return "kheaders was unloaded by another program"
    return f"kheaders was {before or 'unknown'}, and is {now} now"


def _ignore(event: Event, message: str, error: KheadersError | None) -> None:
    """Ignore what happened."""
