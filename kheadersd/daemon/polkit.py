# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may do what: root everything, other users what polkit allows."""

from __future__ import annotations

import asyncio
import collections
import itertools
import logging
from typing import TYPE_CHECKING, NamedTuple

from ..dbus.codec import Variant
from ..dbus.errors import BusError, ConnectionLost
from ..errors import (
    FREEDESKTOP_ERRORS,
    AccessDenied,
    InteractiveAuthorizationRequired,
    KheadersError,
    LimitsExceeded,
    Timeout,
)
from ..headers.consent import Action
from ..names import BUS_NAME
from ..system.tasks import Background, SharedWork

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..dbus.objects import Call, Peer

log = logging.getLogger(__name__)

_AUTHORITY = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
_ALLOW_USER_INTERACTION = 1
# Long enough to find a password.
_INTERACTIVE_TIMEOUT = 300.0
# Below the 25 seconds after which libraries give up, so that the caller still hears of it.
_TIMEOUT = 15.0
# A user can keep polkit waiting, by an agent that never answers; the bus allows 128 open calls in all.
_QUESTIONS_PER_USER = 16


_PURPOSE = {
    Action.EXTRACT: "extract kernel headers",
    Action.DOWNLOAD: "download kernel headers packages",
    Action.MANAGE: "manage the cache of kernel headers",
}
_NO_POLKIT = frozenset(
    {
        FREEDESKTOP_ERRORS + "ServiceUnknown",
        FREEDESKTOP_ERRORS + "NameHasNoOwner",
        FREEDESKTOP_ERRORS + "Spawn.ServiceNotFound",
        "org.freedesktop.systemd1.NoSuchUnit",
        "org.freedesktop.systemd1.UnitMasked",
    }
)
# polkit ended, or was restarted, before it answered.
_LOST = FREEDESKTOP_ERRORS + "NoReply"


class _Question(NamedTuple):
    """What polkit is asked; callers that ask the same at the same time share the answer."""

    connection: Peer
    sender: str
    action: Action
    interactive: bool


class Authority:
    """Answers whether the caller of a method may do something.

    Args:
        trusted_uid: a user who may do everything beside root: on a session bus its owner, else None.
        without_polkit: what every user may do where no polkit runs, as the last parts of the actions' names;
            by default what the policy file lets everyone do.
        asks_polkit: False where the bus is shared by containers: polkit takes root of any of them for root.
    """

    def __init__(
        self,
        trusted_uid: int | None = None,
        without_polkit: Collection[str] = ("extract",),
        *,
        asks_polkit: bool = True,
    ) -> None:
        self._asks_polkit = asks_polkit
        self._without_polkit = frozenset(without_polkit)
        self._trusted = {0} if trusted_uid is None else {0, trusted_uid}
        self._questions = SharedWork()
        self._background = Background()
        self._numbers = itertools.count(1)
        self._open: collections.Counter[int] = collections.Counter()

    async def allows(self, call: Call, action: Action) -> bool:
        """Whether the caller may do something; its user is never asked for a password.

        False also where polkit does not say.
        """
        try:
            await self.require(call, action, ask=False)
        except (AccessDenied, InteractiveAuthorizationRequired, LimitsExceeded):
            return False
        return True

    async def require(self, call: Call, action: Action, *, ask: bool = True) -> None:
        """Let a call through or refuse it.

        Args:
            ask: whether polkit may ask the caller's user for a password, where the message allows it.

        Raises:
            AccessDenied: the caller may not, or polkit did not say.
            InteractiveAuthorizationRequired: the caller may after authenticating, and the message did not
                allow polkit to ask for that.
            LimitsExceeded: too many questions about the caller's user are open.
        """
        uid = (await call.credentials()).uid
        if uid in self._trusted:
            return
        if not self._asks_polkit:
            self._check_without_polkit(action)
            return
        # Identical calls of a caller are one question to polkit.
        question = _Question(call.connection, call.sender, action, ask and call.allow_interactive)
        try:
            allowed, challenge = await self._questions.share(question, lambda: self._ask(uid, question))
        except BusError as error:
            # polkit passes on what others, such as the bus, have answered it: only the bus says that it is
            # not there itself.
            if error.name not in _NO_POLKIT or error.sender != BUS_NAME:
                raise _unanswered(action, error) from None
            self._check_without_polkit(action)
            return
        except (Timeout, ConnectionLost) as error:
            raise _unanswered(action, error) from None
        if allowed:
            return
        if challenge and not call.allow_interactive:
            raise InteractiveAuthorizationRequired(
                f"to {_PURPOSE[action]} you must authenticate ({action.value}); "
                "call again allowing interactive authorisation, or as root"
            )
        raise AccessDenied(f"you may not {_PURPOSE[action]} ({action.value}); ask an administrator")

    def _check_without_polkit(self, action: Action) -> None:
        """Raises AccessDenied unless every user may do this where no polkit runs."""
        if action.value.rpartition(".")[2] not in self._without_polkit:
            who, why = (
                ("root", "no polkit runs")
                if self._asks_polkit
                else ("root of the daemon's own container", "containers share this bus")
            )
            raise AccessDenied(f"only {who} may {_PURPOSE[action]} here, as {why}")

    async def require_root(self, call: Call, what: str) -> None:
        """Raises AccessDenied unless the caller is root (or the owner of the session bus)."""
        credentials = await call.credentials()
        if credentials.uid not in self._trusted:
            raise AccessDenied(f"only root may {what}")

    async def _ask(self, uid: int, question: _Question) -> tuple[bool, bool]:
        """polkit's answer: whether it is allowed, and whether it could be by authenticating."""
        if self._open[uid] >= _QUESTIONS_PER_USER:
            raise LimitsExceeded(
                f"polkit has yet to answer {_QUESTIONS_PER_USER} questions about user {uid}; wait for some"
            )
        self._open[uid] += 1
        try:
            return await self._check(question)
        except BusError as error:
            if error.name != _LOST:
                raise
            return await self._check(question)
        finally:
            self._open[uid] -= 1
            if not self._open[uid]:
                del self._open[uid]

    async def _check(self, question: _Question) -> tuple[bool, bool]:
        connection, sender, action, interactive = question
        # By bus name, never by pid: a pid can be another process's by the time polkit looks.
        subject = ["system-bus-name", {"name": Variant("s", sender)}]
        cancellation = str(next(self._numbers))
        try:
            answer = await connection.call(
                *_AUTHORITY,
                "CheckAuthorization",
                "(sa{sv})sa{ss}us",
                [
                    subject,
                    action.value,
                    {},
                    _ALLOW_USER_INTERACTION if interactive else 0,
                    cancellation,
                ],
                timeout=_INTERACTIVE_TIMEOUT if interactive else _TIMEOUT,
            )
        except (Timeout, asyncio.CancelledError):
            # A call that stays open counts against the calls that the bus allows.
            self._background.start(_cancel(connection, cancellation))
            raise
        try:
            ((allowed, challenge, _),) = answer.values
        except (TypeError, ValueError):
            raise BusError(FREEDESKTOP_ERRORS + "Failed", "its answer is malformed") from None
        return bool(allowed), bool(challenge)


async def _cancel(connection: Peer, cancellation: str) -> None:
    try:
        await connection.call(*_AUTHORITY, "CancelCheckAuthorization", "s", [cancellation], timeout=_TIMEOUT)
    except KheadersError as error:
        log.debug("polkit did not cancel a question: %s", error.message)


def _unanswered(action: Action, error: KheadersError) -> AccessDenied:
    log.warning("polkit could not be asked about %s: %s", action.value, error.message)
    return AccessDenied(
        f"polkit could not be asked whether you may {_PURPOSE[action]}: {error.message}; "
        "try again, or ask an administrator"
    )
