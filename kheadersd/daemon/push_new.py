# SPDX-License-Identifier: LGPL-2.1-or-later
"""Has pushed what was made here, with PushNew=yes, by a unit that has the credentials."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ..cache.entry import HEADERS
from ..errors import KheadersError
from ..host.systemd_loader import MANAGER
from ..names import REGISTRY
from ..system.tasks import Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..host.systemd_loader import Bus

log = logging.getLogger(__name__)

UNIT = "kheaders-push.service"
"""Runs ``kheadersctl push --new`` as root."""


class PushNew:
    """Starts the unit when there is something new. Belongs to the event loop.

    Args:
        bus: the system bus of this machine.
        is_wanted: whether the configuration wants headers pushed.
        wants_pchs: whether it wants pushed, besides, what was made from them and vmlinux.h.
    """

    def __init__(self, bus: Bus, is_wanted: Callable[[], bool], wants_pchs: Callable[[], bool]) -> None:
        self._bus = bus
        self._is_wanted = is_wanted
        self._wants_pchs = wants_pchs
        self._background = Background()

    async def close(self) -> None:
        """Forget a start that is under way."""
        await self._background.close()

    def on_added(self, entry: Entry) -> None:
        """An entry is new; what came from a registry is in one already."""
        wanted = entry.record.kind == HEADERS or self._wants_pchs()
        if wanted and entry.record.source != REGISTRY:
            self.start()

    def on_pch_added(self, pch: Pch) -> None:
        """As `on_added`, of a precompiled header."""
        if self._wants_pchs() and not pch.record.origin:
            self.start()

    def start(self) -> None:
        """Start the unit, which looks itself for what a registry lacks; nothing waits for it."""
        if self._is_wanted():
            self._background.start(self._start())

    async def _start(self) -> None:
        try:
            await self._bus.call(*MANAGER, "StartUnit", "ss", (UNIT, "replace"))
        except KheadersError as error:
            log.warning("PushNew=yes, and %s could not be started: %s", UNIT, error.message)
