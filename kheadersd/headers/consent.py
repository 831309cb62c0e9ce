# SPDX-License-Identifier: LGPL-2.1-or-later
"""The consent that it takes to extract or to download headers."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING, Protocol

from ..errors import LimitsExceeded
from ..names import PACKAGE
from .limits import in_time

if TYPE_CHECKING:
    from ..config import Config
    from ..release import Release
    from ..sources.package import PackageSource
    from ..sources.registry import RegistrySource
    from ..system.tasks import SharedWork
    from .requests import Request

# Seconds that callers wait for the answer about another that asks for the same.
_PATIENCE = 0.1
# Callers that wait for the package manager to tell whether it has a package.
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
    """Asks for consent, once where many callers ask for the same.

    Args:
        package: tells, without a download, whether there is a package with the headers.
        registry: tells, without asking a registry, whether it would be used.
        work: what is being extracted, by request.
    """

    def __init__(self, package: PackageSource, registry: RegistrySource, work: SharedWork) -> None:
        self._package = package
        self._registry = registry
        self._work = work
        self._asking: dict[Request, asyncio.Event] = {}
        self._waiting = 0

    async def to_extract(self, request: Request, caller: Caller) -> int | None:
        """Ask, unless the work has begun, or begins now because another caller may have it done.

        Returns:
            The uid of the caller, None if its consent was not needed.

        Raises:
            AccessDenied, InteractiveAuthorizationRequired: the caller may not.
        """
        if (asked := self._asking.get(request)) is not None and not self._work.under_way(request):
            await asked.wait()
        if self._work.under_way(request):
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

    async def to_download(self, release: Release, caller: Caller, config: Config) -> int:
        """Ask about a download.

        No user is asked for a password if there is no package. But to know that costs a second of the package
        manager's time, so a caller that cannot be asked is refused without it: any user can ask for any
        number of releases.

        Returns:
            The caller's uid.

        Raises:
            NotFound: no package has the headers.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have one downloaded.
            LimitsExceeded: too many are waiting for the package manager.
            Timeout: the package manager does not answer.
        """
        if caller.is_interactive:
            await self._check_offered(release, config)
        uid = await caller.consent(Action.DOWNLOAD)
        await self._check_offered(release, config)
        return uid

    async def to_fetch(self, caller: Caller) -> int:
        """Ask about asking the registries: whether they have the headers is only known from them.

        Returns:
            The caller's uid.

        Raises:
            NotFound: there is none that would be used.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have them asked.
        """
        await self._registry.check_ready()
        return await caller.consent(Action.DOWNLOAD)

    async def _check_offered(self, release: Release, config: Config) -> None:
        if self._waiting >= _MOST_ASKING:
            raise LimitsExceeded("too many releases are being looked for in packages; try again in a minute")
        self._waiting += 1
        try:
            await in_time(config, release, PACKAGE, self._package.offered(release))
        finally:
            self._waiting -= 1
