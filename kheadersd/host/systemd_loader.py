# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loading and unloading the module through the service manager, for a daemon without privilege."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Protocol

from ..dbus.errors import ConnectionLost
from ..errors import KheadersError, ModuleFailed, Timeout
from ..names import PROPERTIES
from .kernel_module import ARCHIVE, LOADED, TIME_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from .host import Host

UNIT = "kheaders-module.service"
"""A oneshot unit that remains active: starting it loads the module, stopping it unloads it."""

UNLOAD_UNIT = "kheaders-module-unload.service"
"""A oneshot unit that unloads the module, also one that another program has loaded."""

MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
"""The name, the path and the interface of the service manager."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2
_GLANCE = 0.005


class Bus(Protocol):
    """The part of `kheadersd.dbus.connection.Connection` that is used here."""

    async def call(
        self, destination: str, path: str, interface: str, member: str, signature: str, values: Sequence[Any]
    ) -> Any:
        """Call a method, and return its answer, which has ``values``.

        Raises:
            KheadersError: the reply is an error, or there is none.
        """
        ...


class UnitLoader:
    """Has systemd start and stop a small unit, so that the daemon itself needs no privilege.

    While the unit is active, the daemon owns the module; the service manager remembers that when the daemon
    is killed. The unit does not start when the module is loaded already. A second unit unloads what another
    program has loaded, and only when a caller asks for that.
    """

    def __init__(self, host: Host, bus: Bus, *, time_limit: float = TIME_LIMIT) -> None:
        """
        Args:
            bus: the system bus of this machine.
            time_limit: seconds.
        """
        self._host = host
        self._bus = bus
        self._time_limit = time_limit
        self.is_owned = False

    async def restore_ownership(self) -> None:
        """Find out whether an earlier kheadersd loaded the module."""
        try:
            # An earlier run of the daemon may have been killed while the unit was starting or stopping.
            async with self._limited(UNIT, "done with what it was told before"):
                self.is_owned = await self._settled(UNIT, _never) == "active"
        except KheadersError:  # no service manager, or no such unit: it has loaded nothing
            self.is_owned = False

    async def load(self) -> None:
        """Load the module."""
        try:
            state, refusal = await self._change(UNIT, "StartUnit", "started", self._is_there)
        except KheadersError:
            self.is_owned = (
                True  # the result of the job is not known; if it loads the module, that is unloaded
            )
            raise
        self.is_owned = state == "active"
        if not self._is_there():
            raise ModuleFailed(f"kheaders could not be loaded: {_reason(UNIT, state, refusal)}")

    async def unload(self) -> None:
        """Unload the module."""
        if self.is_owned:
            unit = UNIT
            state, refusal = await self._change(unit, "StopUnit", "stopped", self._is_gone)
            self.is_owned = state == "active" or bool(refusal)
        else:
            unit = UNLOAD_UNIT
            state, refusal = await self._change(unit, "StartUnit", "done", self._is_gone)
        if not self._is_gone():
            raise ModuleFailed(f"kheaders could not be unloaded: {_reason(unit, state, refusal)}")

    def _is_there(self) -> bool:
        return self._host.path(ARCHIVE).exists()

    def _is_gone(self) -> bool:
        return not self._host.path(LOADED).exists()

    async def _change(
        self, unit: str, member: str, done: str, has_happened: Callable[[], bool]
    ) -> tuple[str, str]:
        """Start or stop a unit, and wait until it has started or stopped.

        Args:
            has_happened: whether the kernel has done what the unit asks it for.

        Returns:
            The state of the unit, and why the service manager refused, "" if it did not.
        """
        async with self._limited(unit, done):
            try:
                try:
                    await self._bus.call(*MANAGER, member, "ss", (unit, "replace"))
                except (Timeout, ConnectionLost):
                    raise
                except KheadersError as error:
                    return "unknown", error.message
                return await self._settled(unit, has_happened), ""
            except Timeout:
                raise
            except KheadersError as error:
                raise ModuleFailed(f"whether {unit} was {done} is not known: {error.message}") from error

    async def _settled(self, unit: str, has_happened: Callable[[], bool]) -> str:
        """The state of the unit when it has no job any more.

        It is polled: the alternative is a subscription to all signals of the service manager. The pause grows
        until the kernel has loaded or unloaded the module; then the job ends within milliseconds, and the
        module takes up memory until this returns.
        """
        pause = _FIRST_PAUSE
        while (await self._get(unit, "Job"))[0]:
            if await _becomes(has_happened, pause):
                pause, has_happened = _FIRST_PAUSE, _never
            else:
                pause = min(pause * 2, _LONGEST_PAUSE)
        return await self._state(unit)

    async def _state(self, unit: str) -> str:
        """ "active", "inactive" or "failed", or "activating" and the like while there is a job."""
        return str(await self._get(unit, "ActiveState"))

    async def _get(self, unit: str, name: str) -> Any:
        loaded = await self._bus.call(*MANAGER, "LoadUnit", "s", (unit,))
        answer = await self._bus.call(
            MANAGER[0],
            loaded.values[0],
            PROPERTIES,
            "Get",
            "ss",
            ("org.freedesktop.systemd1.Unit", name),
        )
        return answer.values[0].value

    @contextlib.asynccontextmanager
    async def _limited(self, unit: str, done: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._time_limit) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise Timeout(
                f"{unit} was not {done} within {self._time_limit:g} seconds; see 'journalctl -u {unit}'"
            ) from None


async def _becomes(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether ``condition`` becomes true within so many seconds; returns as soon as it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(_GLANCE)
    return True


def _never() -> bool:
    return False


def _reason(unit: str, state: str, refusal: str) -> str:
    return f"{refusal or f'{unit} is {state}'}; see 'journalctl -u {unit}'"
