"""Who must be asked before headers are made, and how many may be asked about at a time."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from ..errors import LimitsExceeded

if TYPE_CHECKING:
    from ..release import Release
    from .requests import Request

_PATIENCE = 0.1
"""Seconds that callers wait for the answer about another who asks for the same."""
# Callers who wait for the package manager to tell whether it has a package.
_MOST_ASKING = 64


class Action(enum.Enum):
    """What a caller can be authorised for: the value is an action of `org.kheaders.provide.policy`."""

    EXTRACT = "org.kheaders.provide.extract"
    DOWNLOAD = "org.kheaders.provide.download"
    MANAGE = "org.kheaders.provide.manage"


class Caller(Protocol):
    """The caller of a method, and what it may do.

    Attributes:
        is_interactive: whether its user may be asked for a password.
    """

    is_interactive: bool

    async def consent(self, action: Action) -> int:
        """Require an authorisation, for which polkit may ask the caller's user for a password.

        Returns:
            Its uid.

        Raises:
            AccessDenied, InteractiveAuthorizationRequired: the caller is not authorised.
        """
        ...

    async def may(self, action: Action) -> bool:
        """Whether the caller is authorised; its user is never asked for a password."""
        ...


class Consent:
    """Asks for consent, once where many ask for the same.

    Args:
        offered: finds out, without a download, that a package has the headers; raises NotFound if none has.
    """

    def __init__(self, offered: Callable[[Release], Awaitable[object]]) -> None:
        self._offered = offered
        self._asking: dict[Request, asyncio.Event] = {}
        self._waiting = 0

    async def to_extract(self, request: Request, caller: Caller, begun: Callable[[], bool]) -> int | None:
        """Ask, unless somebody who asked for the same just before may: then the work has begun.

        Args:
            begun: whether it has.

        Returns:
            The uid of who was asked about, None if nobody needed to be.

        Raises:
            AccessDenied, InteractiveAuthorizationRequired: the caller may not.
        """
        if (asked := self._asking.get(request)) is not None:
            await asked.wait()
            if begun():
                return None
        asked = self._asking[request] = asyncio.Event()
        patience = asyncio.get_running_loop().call_later(_PATIENCE, asked.set)
        try:
            return await caller.consent(Action.EXTRACT)
        finally:
            patience.cancel()
            asked.set()
            if self._asking.get(request) is asked:
                del self._asking[request]

    async def to_download(self, release: Release, caller: Caller) -> int:
        """Ask about a download.

        Nobody is asked for a password if there is nothing to be had. But to know that costs a second of the
        package manager's time, so whoever cannot be asked is refused without it: any user can ask for any
        number of releases.

        Returns:
            The caller's uid.

        Raises:
            NotFound: no package has the headers.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have one downloaded.
            LimitsExceeded: too many are waiting for the package manager.
        """
        if caller.is_interactive:
            await self._look(release)
        uid = await caller.consent(Action.DOWNLOAD)
        await self._look(release)
        return uid

    async def _look(self, release: Release) -> None:
        if self._waiting >= _MOST_ASKING:
            raise LimitsExceeded("too many releases are being looked for in packages; try again in a minute")
        self._waiting += 1
        try:
            await self._offered(release)
        finally:
            self._waiting -= 1
