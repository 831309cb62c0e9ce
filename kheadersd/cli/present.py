# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands for headers that are there: answered before `Client` and asyncio would have been imported."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ..names import PROPERTIES, SERVICE, SERVICE_PATH
from ..precompiled.sd_bus import Bus, CannotAsk, Descriptor, ErrorReply
from .environment import Execution, env, prepare_exec

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_SECONDS = 25.0
"""How long to wait for an answer: what is there is told at once."""

_GETTING = ("Acquire", "GetHeaders")


class PresentClient:
    """As `Client`, for headers that are there already. Its calls block, and no coroutine of it waits.

    Raises:
        CannotAsk, ErrorReply: from each call; `Client` finds out more, and tells it.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def call(self, member: str, signature: str = "", *values: Any) -> list[Any]:
        """As `Client.call`; what would have to be extracted first is refused."""
        if member in _GETTING:
            self._call(SERVICE, "Lookup", "s", values[0])
        return self._call(SERVICE, member, signature, *values)

    async def properties(self) -> dict[str, Any]:
        """As `Client.properties`."""
        (properties,) = self._call(PROPERTIES, "GetAll", "s", SERVICE)
        return dict(properties)

    async def watch(self, listener: Callable[[str, list[Any]], None], *members: str) -> None:
        """Nothing: there is no progress of what is there."""

    def _call(self, interface: str, member: str, signature: str, *values: Any) -> list[Any]:
        found = self._bus.call(interface, member, signature, values)
        return [*(value for value in found if isinstance(value, Descriptor)), *found]


def run_if_present(arguments: argparse.Namespace) -> int | Execution | None:
    """Do ``exec`` or ``env``, if the headers are there; None if `Client` has to.

    Raises:
        OutputError, BrokenPipeError: as `output.put`.
    """
    if arguments.source or arguments.refresh:
        return None
    command = {"exec": prepare_exec, "env": env}[arguments.action]
    try:
        bus = Bus(SERVICE, SERVICE_PATH, session=arguments.session, seconds=_SECONDS)
        with contextlib.closing(bus):
            command(PresentClient(bus), arguments).send(None)
    except StopIteration as done:
        outcome: int | Execution = done.value
        return outcome
    except (CannotAsk, ErrorReply, LookupError, TypeError, ValueError):
        return None
    raise RuntimeError(f"{arguments.action} waits for something")
