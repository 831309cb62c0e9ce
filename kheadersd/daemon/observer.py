# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who observes the state of the daemon: the interface, which emits signals, and the service manager."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ..cache.observer import CacheObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..release import Release

# Seconds within which changes are told once.
_STATUS_PAUSE = 0.5


class Observer(CacheObserver, Protocol):
    """Is called on the event loop when the daemon's state changes; must be quick."""

    def progress(self, release: Release, stage: str, fraction: float) -> None:
        """Work for a release is at a stage; ``fraction`` is 0 to 1."""

    def changed(self) -> None:
        """Some of the state that the properties show may have changed."""
        ...


class StatusUpdates:
    """Updates the status of the service soon after changes, once for several.

    Args:
        update: sends the status.
    """

    def __init__(self, update: Callable[[], None]) -> None:
        self._update = update
        self._timer: asyncio.TimerHandle | None = None

    def on_change(self) -> None:
        """Some of the state may have changed."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_STATUS_PAUSE, self._send)

    def _send(self) -> None:
        self._timer = None
        self._update()
