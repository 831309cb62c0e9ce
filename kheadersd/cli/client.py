# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of the service: its methods, signals and properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..dbus.address import session_bus_address, system_bus_address
from ..dbus.codec import Variant
from ..dbus.connection import Connection
from ..dbus.errors import BusError, ConnectionLost
from ..errors import KheadersError
from ..names import BUS_NAME, BUS_PATH, PROPERTIES, SERVICE, SERVICE_PATH
from .calls import MAX_SECONDS, is_interactive, signals_of_service
from .failures import FAILED, NO_DAEMON, CommandError, bus_lost, explain, how_to_start, no_bus

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..dbus.connection import Signal

_MAX_MESSAGE = 16 << 20


class Client:
    """A connection to the bus of the service."""

    def __init__(self, connection: Connection, how_to_start: str) -> None:
        self._connection = connection
        self._how_to_start = how_to_start
        self._service = ""  # the service's unique name: other clients can send signals, too

    @classmethod
    async def connect(cls, *, session: bool) -> Client:
        """Connect to the session or the system bus.

        Raises:
            CommandError: there is no bus, or the bus refuses the connection.
        """
        try:
            address = session_bus_address() if session else system_bus_address()
            connection = await Connection.open(address, max_message=_MAX_MESSAGE)
        except (ValueError, KheadersError) as error:
            raise no_bus(str(error), session=session) from None
        return cls(connection, how_to_start(session=session))

    async def close(self) -> None:
        """Leave the bus."""
        await self._connection.close()

    async def call(
        self, member: str, signature: str = "", *values: Any, interface: str = SERVICE
    ) -> list[Any]:
        """Call a method of the service; the file descriptors that it returns, then its values.

        Args:
            values: in a dictionary of options, each is a pair of its signature and its value.

        Raises:
            CommandError: the call failed.
        """
        try:
            answer = await self._connection.call(
                SERVICE,
                SERVICE_PATH,
                interface,
                member,
                signature,
                [_with_variants(value) for value in values],
                timeout=MAX_SECONDS,
                allow_interactive=is_interactive(),
                accept_fds=True,
            )
        except BusError as error:
            raise explain(error, member, self._how_to_start) from None
        except ConnectionLost as error:
            raise bus_lost(error.message) from None
        except KheadersError as error:
            raise CommandError(FAILED, error.message) from None
        return [*answer.fds, *plain(answer.values)]

    async def properties(self) -> dict[str, Any]:
        """All properties of the service.

        Raises:
            CommandError: the call failed.
        """
        (properties,) = await self.call("GetAll", "s", SERVICE, interface=PROPERTIES)
        return dict(properties)

    async def watch(self, listener: Callable[[str, list[Any]], None], *members: str) -> None:
        """Call ``listener`` with the name and the values of each of the service's signals.

        Raises:
            CommandError: the bus refuses.
        """

        def receive(signal: Signal) -> None:
            if (
                signal.member == "NameOwnerChanged"
                and signal.sender == BUS_NAME
                and signal.args[0] == SERVICE
            ):
                self._service = signal.args[2]
            elif signal.member in members and signal.path == SERVICE_PATH and signal.sender == self._service:
                listener(signal.member, plain(signal.args))

        self._connection.on_signal(receive)
        try:
            await self._connection.add_match(
                f"type='signal',sender='{BUS_NAME}',member='NameOwnerChanged',arg0='{SERVICE}'"
            )
            for member in members:
                await self._connection.add_match(signals_of_service(member))
            self._service = await self._owner()
        except KheadersError as error:
            raise CommandError(NO_DAEMON, f"the bus refuses to send signals: {error}") from None

    async def _owner(self) -> str:
        """The unique name of the service, "" while the daemon does not run."""
        try:
            answer = await self._connection.call(BUS_NAME, BUS_PATH, BUS_NAME, "GetNameOwner", "s", [SERVICE])
        except BusError:
            return ""
        return str(answer.values[0])

    async def lost(self) -> None:
        """Wait until the connection to the bus is lost."""
        await self._connection.closed


def _with_variants(value: Any) -> Any:
    """As the bus has it: pairs of a signature and a value are variants."""
    return {name: Variant(*item) for name, item in value.items()} if isinstance(value, dict) else value


def plain(value: Any) -> Any:
    """A value of the bus without its variants, as JSON has it."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
