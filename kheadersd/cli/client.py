"""kheadersctl's side of the bus: the connection, the service's methods, its errors in words for people."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from ..dbus.address import session_bus_address, system_bus_address
from ..dbus.codec import Variant
from ..dbus.connection import Connection
from ..dbus.credentials import BUS_NAME
from ..dbus.errors import BusError, ConnectionLost
from ..errors import FREEDESKTOP_ERRORS, PROVIDE_ERRORS, KheadersError
from ..names import PROPERTIES, SERVICE, SERVICE_PATH

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence

    from ..dbus.connection import Signal
    from ..dbus.objects import Answer

DONE, FAILED, USAGE, NOT_AVAILABLE, NOT_AUTHORISED, NO_DAEMON = range(6)

# Downloads and extractions have their own, configurable limits in the daemon; this one is only for a daemon
# that has none.
PATIENCE = 3600.0

_MAX_MESSAGE = 16 << 20
_PROMPTER = "/usr/bin/pkttyagent"
_PROMPTER_PATIENCE = 2.0

_CODES = {
    PROVIDE_ERRORS + "NotAvailable": NOT_AVAILABLE,
    PROVIDE_ERRORS + "NotCached": NOT_AVAILABLE,
    PROVIDE_ERRORS + "UnknownProfile": USAGE,
    FREEDESKTOP_ERRORS + "InvalidArgs": USAGE,
    FREEDESKTOP_ERRORS + "AccessDenied": NOT_AUTHORISED,
    FREEDESKTOP_ERRORS + "InteractiveAuthorizationRequired": NOT_AUTHORISED,
}
_GETTING = ("GetHeaders", "Acquire")
# What to do next: for an error, the methods (none: whichever) after whose failure it helps, and the advice.
_HINTS: dict[str, tuple[tuple[str, ...], str]] = {
    PROVIDE_ERRORS + "NotAvailable": (
        _GETTING,
        "Install the kernel's headers package; root may also have it downloaded.",
    ),
    PROVIDE_ERRORS + "NotCached": (("Verify", "Remove"), "'kheadersctl list' shows what is in the cache."),
    PROVIDE_ERRORS + "Corrupt": (
        _GETTING,
        "Reinstall the kernel package, or try another source with --source.",
    ),
    PROVIDE_ERRORS + "NoSpace": ((), "Make room, for example with 'kheadersctl prune'."),
    PROVIDE_ERRORS + "InUse": (
        ("Remove",),
        "'kheadersctl status' shows who uses it; --force removes it all the same.",
    ),
    # Of unloading, the message says why it was refused; the kernel need not have been asked.
    PROVIDE_ERRORS + "ModuleFailed": (_GETTING, "'journalctl -k' has the kernel's own words."),
    FREEDESKTOP_ERRORS + "AccessDenied": ((), "Try again as root."),
    FREEDESKTOP_ERRORS + "InteractiveAuthorizationRequired": (
        (),
        "Try again on a terminal, where you can be asked for a password, or as root.",
    ),
}
# What the bus itself says when nobody has the name, or its owner went away during the call.
_NOBODY = ("ServiceUnknown", "NameHasNoOwner", "NoServer", "Disconnected", "NoReply", "TimedOut")


class CommandError(Exception):
    """Why the command failed, for a person: what happened, what to do next, and the exit code."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


def explain(error: BusError, member: str, session: bool) -> CommandError:
    """What an error reply to a call of the method ``member`` means."""
    short = error.name.removeprefix(FREEDESKTOP_ERRORS)
    if short in _NOBODY or short.startswith("Spawn.") or error.name.startswith("org.freedesktop.systemd1."):
        how = "'kheadersd --session'" if session else "'systemctl start kheadersd', or 'kheadersd' as root,"
        return CommandError(NO_DAEMON, f"kheadersd does not answer: {error.message}", f"{how} starts it.")
    members, hint = _HINTS.get(error.name, ((), ""))
    if members and member not in members:
        hint = ""
    return CommandError(_CODES.get(error.name, FAILED), error.message or error.name, hint)


class Client:
    """A connection to the bus on which the service is."""

    def __init__(self, connection: Connection, session: bool, interactive: bool) -> None:
        self._connection = connection
        self._session = session
        self._interactive = interactive
        self._service = ""  # its unique name: anybody can send us signals

    @classmethod
    async def connect(cls, session: bool) -> Client:
        """Connect to the session or the system bus.

        Raises:
            CommandError: there is no bus, or it does not let us in.
        """
        kind = "session" if session else "system"
        try:
            address = session_bus_address() if session else system_bus_address()
            connection = await Connection.open(address, max_message=_MAX_MESSAGE)
        except (ValueError, KheadersError) as error:
            raise CommandError(
                NO_DAEMON,
                f"no {kind} bus: {error}",
                "Start dbus, or set "
                + ("DBUS_SESSION_BUS_ADDRESS." if session else "DBUS_SYSTEM_BUS_ADDRESS."),
            ) from None
        return cls(connection, session, interactive=sys.stdin is not None and sys.stdin.isatty())

    async def close(self) -> None:
        await self._connection.close()

    async def call(
        self,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        interface: str = SERVICE,
        accept_fds: bool = False,
    ) -> Answer:
        """Call a method of the service.

        Raises:
            CommandError: it failed, with the exit code that says how.
        """
        try:
            return await self._connection.call(
                SERVICE,
                SERVICE_PATH,
                interface,
                member,
                signature,
                values,
                timeout=PATIENCE,
                allow_interactive=self._interactive,
                accept_fds=accept_fds,
            )
        except BusError as error:
            raise explain(error, member, self._session) from None
        except ConnectionLost as error:
            raise CommandError(NO_DAEMON, error.message, "Try again when the bus is back.") from None
        except KheadersError as error:
            raise CommandError(FAILED, error.message) from None

    async def properties(self) -> dict[str, Any]:
        """All properties of the service.

        Raises:
            CommandError: as `call`.
        """
        answer = await self.call("GetAll", "s", [SERVICE], interface=PROPERTIES)
        return dict(plain(answer.values[0]))

    async def watch(self, listener: Callable[[str, list[Any]], None], *members: str) -> None:
        """Have ``listener`` called with the name and the values of each of the service's signals.

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
            raise CommandError(NO_DAEMON, f"the bus does not let us listen: {error}") from None

    async def _owner(self) -> str:
        """The unique name of the service, "" while it is not there."""
        path = "/org/freedesktop/DBus"
        try:
            answer = await self._connection.call(BUS_NAME, path, BUS_NAME, "GetNameOwner", "s", [SERVICE])
        except BusError:
            return ""
        return str(answer.values[0])

    async def lost(self) -> None:
        """Wait until the bus is gone."""
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


@contextlib.contextmanager
def password_prompter(session: bool) -> Iterator[None]:
    """While this lasts, polkit can ask for a password on our terminal, if we have one and need it."""
    prompter = None
    if not session and os.geteuid() != 0 and sys.stdin is not None and sys.stdin.isatty():
        prompter = _start_prompter()
    try:
        yield
    finally:
        if prompter is not None:
            prompter.terminate()
            prompter.wait()


def _start_prompter() -> subprocess.Popen[bytes] | None:
    import select
    import subprocess

    reader, writer = os.pipe()
    try:
        # --fallback: what the desktop has is asked first. The descriptor closes once it is registered.
        prompter = subprocess.Popen(
            [_PROMPTER, "--process", str(os.getpid()), "--notify-fd", str(writer), "--fallback"],
            pass_fds=[writer],
            stdout=subprocess.DEVNULL,  # it asks on the controlling terminal, and complains here
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        prompter = None
    finally:
        os.close(writer)
    if prompter is not None:
        select.select([reader], [], [], _PROMPTER_PATIENCE)
    os.close(reader)
    return prompter
