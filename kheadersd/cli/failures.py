# SPDX-License-Identifier: LGPL-2.1-or-later
"""Why a command fails: its exit code, and what the service's errors mean for a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import errors
from ..errors import FREEDESKTOP_ERRORS
from ..names import ADVICE

if TYPE_CHECKING:
    from ..dbus.errors import BusError

DONE, FAILED, USAGE, NOT_AVAILABLE, NOT_AUTHORISED, NO_DAEMON = range(6)

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


def how_to_start(*, session: bool) -> str:
    """How the service of a bus is started."""
    if session:
        return "'kheadersd --session' starts it."
    return (
        "'systemctl start kheadersd', or 'kheadersd' as root, starts it, where the distribution's "
        "package has installed the units and the bus policy. Without these, 'kheadersd --session' serves."
    )


def bus_lost(why: str) -> CommandError:
    """The bus is gone, during a call."""
    return CommandError(NO_DAEMON, why, "Try again when the bus is back.")


def no_bus(why: str, *, session: bool) -> CommandError:
    """There is no bus, or it does not let this program in."""
    kind = "session" if session else "system"
    hint = f"Start dbus, or set DBUS_{kind.upper()}_BUS_ADDRESS."
    return CommandError(NO_DAEMON, f"no {kind} bus: {why}", hint)
