# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of the service: its methods, signals and properties, and what its errors mean for a user."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .. import errors
from ..dbus.address import session_bus_address, system_bus_address
from ..dbus.codec import Variant
from ..dbus.connection import Connection
from ..dbus.credentials import BUS_NAME, BUS_PATH
from ..dbus.errors import BusError, ConnectionLost
from ..errors import FREEDESKTOP_ERRORS, KheadersError
from ..names import ADVICE, PROPERTIES, SERVICE, SERVICE_PATH

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..dbus.connection import Signal

DONE, FAILED, USAGE, NOT_AVAILABLE, NOT_AUTHORISED, NO_DAEMON = range(6)

# Only for a daemon that hangs: extraction, download and compilation have shorter limits in the daemon.
MAX_SECONDS = 3600.0

_MAX_MESSAGE = 16 << 20
_GETTING = ("GetHeaders", "Acquire")
# For each error: the exit code, a hint, and the methods for which the hint holds (none: all).
_MEANINGS: dict[str, tuple[int, str, tuple[str, ...]]] = {
    errors.NotAvailable.bus_name: (
        NOT_AVAILABLE,
        "Install the kernel's headers package; root may also have it downloaded.",
        _GETTING,
    ),
    errors.NotCached.bus_name: (
        NOT_AVAILABLE,
        "'kheadersctl list' shows what is in the cache.",
        ("Verify", "Remove"),
    ),
    errors.Corrupt.bus_name: (
        FAILED,
        "Reinstall the kernel package, or try another source with --source.",
        _GETTING,
    ),
    errors.NoSpace.bus_name: (FAILED, "Make room, for example with 'kheadersctl prune'.", ()),
    errors.InUse.bus_name: (
        FAILED,
        "'kheadersctl status' shows who uses it; --force removes it all the same.",
        ("Remove",),
    ),
    # When unloading fails, the message gives the reason, and the kernel may not have been asked.
    errors.ModuleFailed.bus_name: (FAILED, "'journalctl -k' has the kernel's message.", _GETTING),
    errors.UnknownProfile.bus_name: (USAGE, "", ()),
    errors.InvalidArgs.bus_name: (USAGE, "", ()),
    errors.AccessDenied.bus_name: (NOT_AUTHORISED, "Try again as root.", ()),
    errors.InteractiveAuthorizationRequired.bus_name: (
        NOT_AUTHORISED,
        "Try again on a terminal, where polkit can ask for a password, or as root.",
        (),
    ),
}
# The bus's own errors when no program has the name, or the daemon ended during the call.
_NO_OWNER = ("ServiceUnknown", "NameHasNoOwner", "NoServer", "Disconnected", "NoReply", "TimedOut")


class CommandError(Exception):
    """Why the command failed: the exit code, the message, and a hint on what to do next."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def explain(error: BusError, member: str, how_to_start: str) -> CommandError:
    """What an error reply to a call of the method ``member`` means."""
    short = error.name.removeprefix(FREEDESKTOP_ERRORS)
    if short in _NO_OWNER or short.startswith("Spawn.") or error.name.startswith("org.freedesktop.systemd1."):
        return CommandError(NO_DAEMON, f"kheadersd does not answer: {error.message}", how_to_start)
    code, hint, members = _MEANINGS.get(error.name, (FAILED, "", ()))
    if (members and member not in members) or f"; {ADVICE}: " in error.message:
        hint = ""
    return CommandError(code, error.message or error.name, hint)


class Client:
    """A connection to the bus of the service."""

    def __init__(self, connection: Connection, how_to_start: str) -> None:
        self._connection = connection
        self._how_to_start = how_to_start
        self._interactive = sys.stdin is not None and sys.stdin.isatty()
        self._service = ""  # the service's unique name: other clients can send signals, too

    @classmethod
    async def connect(cls, *, session: bool) -> Client:
        """Connect to the session or the system bus.

        Raises:
            CommandError: there is no bus, or the bus refuses the connection.
        """
        kind = "session" if session else "system"
        how_to_start = (
            "'systemctl start kheadersd', or 'kheadersd' as root, starts it, where the distribution's "
            "package has installed the units and the bus policy. Without these, 'kheadersd --session' serves."
        )
        try:
            address = session_bus_address() if session else system_bus_address()
            connection = await Connection.open(address, max_message=_MAX_MESSAGE)
        except (ValueError, KheadersError) as error:
            hint = f"Start dbus, or set DBUS_{kind.upper()}_BUS_ADDRESS."
            raise CommandError(NO_DAEMON, f"no {kind} bus: {error}", hint) from None
        return cls(connection, "'kheadersd --session' starts it." if session else how_to_start)

    async def close(self) -> None:
        """Leave the bus."""
        await self._connection.close()

    async def call(
        self, member: str, signature: str = "", *values: Any, interface: str = SERVICE
    ) -> list[Any]:
        """Call a method of the service; the file descriptors that it returns, then its values.

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
                values,
                timeout=MAX_SECONDS,
                allow_interactive=self._interactive,
                accept_fds=True,
            )
        except BusError as error:
            raise explain(error, member, self._how_to_start) from None
        except ConnectionLost as error:
            raise CommandError(NO_DAEMON, error.message, "Try again when the bus is back.") from None
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
                rule = f"type='signal',sender='{SERVICE}',path='{SERVICE_PATH}',member='{member}'"
                await self._connection.add_match(rule)
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


def plain(value: Any) -> Any:
    """A value of the bus without its variants, as JSON has it."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
