"""Who may do what: root always, everybody else as polkit says."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

from .bus.failures import BusError, ConnectionLost
from .errors import AccessDenied, InteractiveAuthorizationRequired, Timeout

if TYPE_CHECKING:
    from .bus.connection import Connection
    from .bus.objects import Call

log = logging.getLogger(__name__)

_POLKIT = "org.freedesktop.PolicyKit1"
_ALLOW_USER_INTERACTION = 1
# Long enough for somebody to find their password; the bus itself bounds how many calls can wait.
_INTERACTIVE_TIMEOUT = 300.0
_TIMEOUT = 25.0


class Action(enum.Enum):
    """The intents of `org.kheaders.provide.policy`; the value is the polkit action."""

    EXTRACT = "org.kheaders.provide.extract"
    DOWNLOAD = "org.kheaders.provide.download"
    MANAGE = "org.kheaders.provide.manage"


_PURPOSE = {
    Action.EXTRACT: "extract kernel headers",
    Action.DOWNLOAD: "download kernel headers packages",
    Action.MANAGE: "manage the cache of kernel headers",
}
# What the policy file says by default, for hosts on which no polkit runs.
_WITHOUT_POLKIT = frozenset({Action.EXTRACT})
_NO_POLKIT = frozenset(
    {
        "org.freedesktop.DBus.Error.ServiceUnknown",
        "org.freedesktop.DBus.Error.NameHasNoOwner",
        "org.freedesktop.DBus.Error.Spawn.ServiceNotFound",
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    }
)


class Authority:
    """Answers whether the caller of a method may do something.

    Args:
        trusted_uid: a user who may do everything beside root: on a session bus its owner, else None.
    """

    def __init__(self, trusted_uid: int | None = None) -> None:
        self._trusted = {0} if trusted_uid is None else {0, trusted_uid}

    async def require(self, call: Call, action: Action) -> None:
        """Let a call through or refuse it.

        Raises:
            AccessDenied: the caller may not.
            InteractiveAuthorizationRequired: the caller may after authenticating, and the message did not
                allow us to ask for that.
        """
        credentials = await call.credentials()
        if credentials.uid in self._trusted:
            return
        try:
            allowed, challenge = await self._ask(call.connection, call.sender, action, call.allow_interactive)
        except BusError as error:
            if error.name not in _NO_POLKIT:
                log.warning("polkit could not be asked about %s: %s", action.value, error.message)
            allowed, challenge = error.name in _NO_POLKIT and action in _WITHOUT_POLKIT, False
        except (Timeout, ConnectionLost) as error:
            log.warning("polkit did not answer about %s: %s", action.value, error)
            allowed, challenge = False, False
        if allowed:
            return
        if challenge and not call.allow_interactive:
            raise InteractiveAuthorizationRequired(
                f"to {_PURPOSE[action]} you must authenticate ({action.value}); "
                "call again allowing interactive authorisation, or as root"
            )
        raise AccessDenied(f"you may not {_PURPOSE[action]} ({action.value}); ask an administrator")

    async def require_root(self, call: Call, what: str) -> None:
        """Raises AccessDenied unless the caller is root (or the owner of the session bus)."""
        credentials = await call.credentials()
        if credentials.uid not in self._trusted:
            raise AccessDenied(f"only root may {what}")

    @staticmethod
    async def _ask(
        connection: Connection, sender: str, action: Action, interactive: bool
    ) -> tuple[bool, bool]:
        from .bus.library import Variant

        # By bus name, never by pid: a pid can be another process's by the time polkit looks.
        subject = ["system-bus-name", {"name": Variant("s", sender)}]
        answer = await connection.call(
            _POLKIT,
            "/org/freedesktop/PolicyKit1/Authority",
            "org.freedesktop.PolicyKit1.Authority",
            "CheckAuthorization",
            "(sa{sv})sa{ss}us",
            [subject, action.value, {}, _ALLOW_USER_INTERACTION if interactive else 0, ""],
            timeout=_INTERACTIVE_TIMEOUT if interactive else _TIMEOUT,
        )
        allowed, challenge, _ = answer.values[0]
        return bool(allowed), bool(challenge)
