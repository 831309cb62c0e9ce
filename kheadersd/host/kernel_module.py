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
"""What the module shows below the root, readable for everybody (the kernel's kernel/kheaders.c)."""

LOADED = "sys/module/kheaders"
"""Is there while the module is loaded, and never for a built-in one."""

TIME_LIMIT = 30.0
"""Seconds for a load or an unload; it takes 0.1 to 0.3 seconds on a slow machine."""


class CannotLoad(Exception):
    """This daemon does not load modules; the message says why."""


class Loader(Protocol):
    """Loads and unloads the module, and remembers whether it was us, beyond our own death."""

    async def load(self) -> None:
        """Load the module. When it is loaded already, nothing happens, and it does not become ours.

        Raises:
            CannotLoad: there is no way to load modules here.
            ModuleFailed: it could not be loaded; the message says what can be done.
            Timeout: it took longer than 30 seconds.
        """
        ...

    async def unload(self) -> None:
        """Unload the module. When it is not loaded, nothing happens.

        Raises:
            ModuleFailed: it could not be unloaded.
            Timeout: it took longer than 30 seconds.
        """
        ...

    async def recall(self) -> None:
        """Find out what a predecessor, who may have been killed, left loaded. Called once, at start."""
        ...

    def owned(self) -> bool:
        """Whether the module was loaded by us, and not unloaded by us since."""
        ...


class NoLoader:
    """For hosts whose module is none of our business, and for daemons that may not load it."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def load(self) -> None:
        """Raises CannotLoad."""
        raise CannotLoad(f"kheaders is not loaded: {self._reason}")

    async def unload(self) -> None:
        """Raises ModuleFailed."""
        raise ModuleFailed(f"kheaders is not unloaded: {self._reason}")

    async def recall(self) -> None:
        """Nothing was ever loaded."""

    def owned(self) -> bool:
        """False."""
        return False


class KernelModule:
    """The module and its file in sysfs.

    Attributes:
        path: /sys/kernel/kheaders.tar.xz of the host.
    """

    def __init__(self, host: Host, loader: Loader, tell: Tell | None = None) -> None:
        """
        Args:
            tell: called when the module was loaded or unloaded by us, or could not be unloaded.
        """
        self.path = host.path(ARCHIVE)
        self._tell = tell or _tell_nobody
        self._host = host
        self._loader = loader
        self._lock = asyncio.Lock()
        self._readers = 0
        self._file: Path | None = None
        # The state, but for what we do ourselves and undo soon: what differs from it was done by others.
        self._known = ""

    def state(self) -> str:
        """ "absent", "available", "loaded" or "builtin"; a few microseconds.

        Whether the module is installed is known from the last `look`.
        """
        if self._host.exists(self._host.path(LOADED)):
            return "loaded"
        if self._host.exists(self.path):  # a built-in kheaders has no directory in /sys/module
            return "builtin"
        return "available" if self._file is not None and self._file.exists() else "absent"

    @property
    def owned(self) -> bool:
        """Whether it is loaded, and by us."""
        return self._loader.owned() and self.state() == "loaded"

    async def look(self) -> str:
        """The state, after looking for the module file again: tens of milliseconds in a thread."""
        if (running := self._host.running) is not None:
            self._file = await in_thread(locate, self._host, running)
        return self.state()

    async def recover(self) -> None:
        """At start: look, and unload what a predecessor loaded and was killed before it unloaded."""
        async with self._lock:
            await self._loader.recall()
            await self._give_back()
        self._known = await self.look()

    async def noticed(self) -> None:
        """Look, and tell if others have loaded, unloaded, installed or removed the module.

        What we do ourselves is waited for, so that it is not taken for somebody else's doing.
        """
        await self.look()
        async with self._lock:
            before, self._known = self._known, self.state()
            if self._known != before:
                self._tell(Event.MODULE_CHANGED, _what_happened(before, self._known), None)

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """While this is entered the module's file is being read, and `unload_if_idle` refuses."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @contextlib.asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Load the module for the time this is entered, and unload it then if it was us who loaded it.

        One at a time. Neither loading nor unloading is ever left half done: a cancellation goes on when they
        are done, after at most 30 seconds each. A failed unload is told, and no failure of the request.

        Raises:
            CannotLoad, ModuleFailed, Timeout: as `Loader.load`.
        """
        async with self._lock:
            with self.needed():
                try:
                    if not self._host.exists(self.path):
                        await to_the_end(self._load())
                    yield
                finally:
                    await to_the_end(self._give_back())

    async def unload_if_idle(self) -> str:
        """Unload the module, whoever loaded it; nothing to do if it is not loaded, or built in.

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
        return await self.look()

    async def _give_back(self) -> None:
        if not self._loader.owned():
            return
        try:
            await self._unload()
        except KheadersError as error:
            # Whoever needed the module has what it wanted.
            self._tell(Event.MODULE_UNLOAD_FAILED, f"kheaders stays loaded: {error.message}", error)

    async def _load(self) -> None:
        await self._loader.load()
        if self._loader.owned():
            self._known = "loaded"
            self._tell(Event.MODULE_LOADED, "Loaded kheaders to read its archive", None)

    async def _unload(self) -> None:
        await self._loader.unload()
        self._known = self.state()
        self._tell(Event.MODULE_UNLOADED, "Unloaded kheaders", None)


def _what_happened(before: str, now: str) -> str:
    if now == "loaded":
        return "kheaders was loaded by somebody else; it is used, and left alone"
    if before == "loaded":
        return "kheaders was unloaded by somebody else"
    return f"kheaders was {before or 'unknown'}, and is {now} now"


def _tell_nobody(event: Event, message: str, error: KheadersError | None) -> None:
    """What is told where nobody listens."""
