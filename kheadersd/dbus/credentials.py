# SPDX-License-Identifier: LGPL-2.1-or-later
"""The credentials of names on the bus, remembered until a name vanishes."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from ..errors import AccessDenied
from ..names import BUS_NAME, BUS_PATH
from .errors import BusError, ConnectionLost

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

T = TypeVar("T")

_VANISHED_RULE = (
    f"type='signal',sender='{BUS_NAME}',path='{BUS_PATH}',interface='{BUS_NAME}',"
    "member='NameOwnerChanged',arg2=''"
)
_MAX_KNOWN = 4096

ORDINARY_UID = 65534
"""The user that root of another container is taken for: nobody, the default of kernel.overflowuid."""


class Credentials(NamedTuple):
    """User and process of a connection, as the bus knows them. The pid is 0 where the bus does not say."""

    uid: int
    pid: int


def of_shared_bus(credentials: Credentials) -> Credentials:
    """Credentials on a bus that containers share, in which root of another container is an ordinary user.

    Containers have PID namespaces of their own and, by default, no user namespace: uid 0 is the same in all
    of them. Of a process outside of the PID namespace of the bus and those below it, the kernel tells the bus
    pid 0 (SO_PEERCRED in unix(7), pid_vnr() in net/core/sock.c), as it was when the process connected, and
    dbus-daemon passes that on. The bus and the daemon must have one PID namespace. The daemon's own user, who
    may do everything there, is treated as root is.
    """
    if credentials.pid == 0 and credentials.uid in (0, os.getuid()):
        return credentials._replace(uid=ORDINARY_UID)
    return credentials


class AskBus(Protocol):
    """Calls a method of the bus itself and returns the values, as `Connection.call` does."""

    async def __call__(self, member: str, signature: str = "", values: Sequence[Any] = ()) -> list[Any]:
        """Call a method of the bus."""


class Callers:
    """
    Attributes:
        known: the lookups that are done or under way, the oldest first.
    """

    def __init__(self, ask_bus: AskBus, *, is_shared: bool = False) -> None:
        """
        Args:
            is_shared: whether the bus is shared, see `of_shared_bus`.
        """
        self._is_shared = is_shared
        self.known: dict[str, asyncio.Task[Credentials]] = {}
        self._ask_bus = ask_bus
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False

    async def credentials(self, name: str) -> Credentials:
        """As `Connection.credentials`."""
        lookup = self.known.get(name)
        if lookup is None:
            while len(self.known) >= _MAX_KNOWN:
                del self.known[next(iter(self.known))]
            lookup = self._start(self._look_up(name))
            self.known[name] = lookup
            lookup.add_done_callback(lambda done: self._forget_failed(name, done))
        return await self._share(lookup)

    def user(self, name: str) -> int | None:
        """The uid behind a name, None if it is not known now."""
        lookup = self.known.get(name)
        return lookup.result().uid if lookup is not None and _succeeded(lookup) else None

    def vanished(self, name: str) -> None:
        """The name has left the bus, and will not come back."""
        self.known.pop(name, None)

    async def watch(self) -> None:
        """Ask the bus, once, for a signal when a name vanishes."""
        if self._watching is None or (self._watching.done() and not _succeeded(self._watching)):
            self._watching = self._start(self._add_rule())
        await self._share(self._watching)

    async def stop(self) -> None:
        """Cancel what is under way, and wait for its end."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _look_up(self, name: str) -> Credentials:
        await self.watch()
        try:
            (known,) = await self._ask_bus("GetConnectionCredentials", "s", (name,))
            found = Credentials(
                known["UnixUserID"].value, known["ProcessID"].value if "ProcessID" in known else 0
            )
        except (BusError, KeyError) as error:
            raise AccessDenied(f"the bus has no credentials of {name}: {error}") from error
        return of_shared_bus(found) if self._is_shared else found

    async def _add_rule(self) -> None:
        await self._ask_bus("AddMatch", "s", (_VANISHED_RULE,))

    def _forget_failed(self, name: str, lookup: asyncio.Task[Credentials]) -> None:
        if not _succeeded(lookup) and self.known.get(name) is lookup:
            del self.known[name]

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_succeeded)  # the error is for callers that wait, and there may be none
        return task

    async def _share(self, task: asyncio.Task[T]) -> T:
        """Wait for a task that others wait for, too: being cancelled does not end it."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._stopped and task.cancelled():
                raise ConnectionLost("the connection to the bus was closed") from None
            raise


def _succeeded(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None
