# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of the service for commands that do nothing else meanwhile: by libsystemd instead of asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..dbus.errors import BusError
from ..names import BUS_NAME, BUS_PATH, PROPERTIES, SERVICE, SERVICE_PATH
from ..precompiled.sd_bus import Bus, BusLost, CannotAsk, Descriptor, ErrorReply, Method, NoAnswer
from .calls import MAX_SECONDS, is_interactive, signals_of_service
from .failures import FAILED, CommandError, bus_lost, explain, how_to_start, no_bus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import TypeVar

    from ..precompiled.sd_bus import Signal

    T = TypeVar("T")


class BlockingClient:
    """As `Client`; its coroutines wait for nothing but the bus, and block meanwhile."""

    def __init__(self, *, session: bool) -> None:
        """Connect to the session or the system bus.

        Raises:
            CommandError: the bus does not let this program in.
            CannotAsk: libsystemd cannot be had, or does not reach the bus. `Client` finds out more.
        """
        try:
            self._bus = Bus(session=session)
        except NoAnswer as error:
            raise no_bus(str(error), session=session) from None
        self._how_to_start = how_to_start(session=session)

    def close(self) -> None:
        """Leave the bus."""
        self._bus.close()

    async def call(
        self, member: str, signature: str = "", *values: Any, interface: str = SERVICE
    ) -> list[Any]:
        """As `Client.call`."""
        found = self._ask(Method(SERVICE, SERVICE_PATH, interface, member), signature, *values)
        return [*(value for value in found if isinstance(value, Descriptor)), *found]

    async def properties(self) -> dict[str, Any]:
        """As `Client.properties`."""
        (properties,) = await self.call("GetAll", "s", SERVICE, interface=PROPERTIES)
        return dict(properties)

    async def watch(self, listener: Callable[[str, list[Any]], None], *members: str) -> None:
        """As `Client.watch`, for what the daemon that is there sends while an answer is waited for."""
        (is_there,) = self._ask_bus("NameHasOwner", "s", SERVICE)
        if not is_there:
            self._ask_bus("StartServiceByName", "su", SERVICE, 0)

        def receive(signal: Signal) -> None:
            if signal.path == SERVICE_PATH and signal.member in members:
                listener(signal.member, signal.values)

        self._bus.listen(self._owner(), receive)
        for member in members:
            self._ask_bus("AddMatch", "s", signals_of_service(member))

    def _owner(self) -> str:
        """The unique name of the service; "" if it has left just now: the call will start it again."""
        method = Method(BUS_NAME, BUS_PATH, BUS_NAME, "GetNameOwner")
        try:
            return str(self._bus.call(method, "s", [SERVICE], seconds=MAX_SECONDS)[0])
        except ErrorReply:
            return ""

    def _ask_bus(self, member: str, signature: str, *values: Any) -> list[Any]:
        return self._ask(Method(BUS_NAME, BUS_PATH, BUS_NAME, member), signature, *values)

    def _ask(self, method: Method, signature: str, *values: Any) -> list[Any]:
        interactive = is_interactive()
        try:
            return self._bus.call(method, signature, values, seconds=MAX_SECONDS, interactive=interactive)
        except ErrorReply as error:
            raise explain(BusError(error.name, str(error)), method.member, self._how_to_start) from None
        except BusLost as error:
            raise bus_lost(str(error)) from None
        except CannotAsk as error:
            raise CommandError(FAILED, str(error)) from None


def completed(command: Coroutine[Any, Any, T]) -> T:
    """What comes of a command whose client is a `BlockingClient`."""
    try:
        command.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise RuntimeError("the command waits for something else than its client")
