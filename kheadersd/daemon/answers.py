# SPDX-License-Identifier: LGPL-2.1-or-later
"""Answers that many callers get: found once, encoded once.

Measured by ``tests.bench cached``: a call takes 29 µs of the daemon's CPU with ten callers, and 46 µs without
looking once for all calls that have come in together.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..dbus.objects import Reply

R = TypeVar("R")
T = TypeVar("T")

_MAX_ENCODED = 256


class Answers:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._encoded: dict[object, Reply] = {}
        self._found: dict[object, Any] = {}

    def found(self, request: R, find: Callable[[R], T | None]) -> T | None:
        """What ``find`` finds for a request, or says of it, once for all calls that have come in together."""
        served: T | None = self._found.get(request)
        if served is None and (served := find(request)) is not None:
            if not self._found:
                # Before anything else is read from the bus, or done at all.
                asyncio.get_running_loop().call_soon(self._found.clear)
            self._found[request] = served
        return served

    def encoded(self, served: T, encode: Callable[[T], Reply], depends_on: object = None) -> Reply:
        """The reply with what is served, encoded once until something changes.

        Args:
            depends_on: what else is in the reply, or changes when that does.
        """
        key = (served, depends_on)
        reply = self._encoded.get(key)
        if reply is None:
            if len(self._encoded) >= _MAX_ENCODED:
                self._encoded.clear()
            reply = self._encoded[key] = encode(served)
        return reply

    def forget(self) -> None:
        """Encode replies anew from now on: something that they describe has changed."""
        self._encoded.clear()
