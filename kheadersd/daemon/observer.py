# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who observes the state of the daemon: the interface, which emits signals, and the service manager."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ..cache.observer import CacheObserver

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache.entry import Entry
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


class StatusObserver:
    """An `Observer` that keeps the status up to date, and passes everything on.

    Args:
        observer: gets everything.
        update: sends the status; called soon after a change.
    """

    def __init__(self, observer: Observer, update: Callable[[], None]) -> None:
        self._observer = observer
        self._update = update
        self._timer: asyncio.TimerHandle | None = None

    def entry_added(self, entry: Entry) -> None:
        """A new entry is in the cache."""
        self._observer.entry_added(entry)

    def entry_removed(self, entry: Entry, reason: str) -> None:
        """An entry is no longer in the cache."""
        self._observer.entry_removed(entry, reason)

    def progress(self, release: Release, stage: str, fraction: float) -> None:
        """Work for a release is at a stage; ``fraction`` is 0 to 1."""
        self._observer.progress(release, stage, fraction)

    def changed(self) -> None:
        """Some of the state that the properties show may have changed."""
        self._observer.changed()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_STATUS_PAUSE, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._update()
