# SPDX-License-Identifier: LGPL-2.1-or-later
"""The signals of the interface, PropertiesChanged among them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..names import SERVICE, SERVICE_PATH
from .replies import details, variants

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..dbus.connection import Connection
    from ..dbus.objects import Interface
    from ..headers.requests import Served
    from ..release import Release

# Seconds; enough for one PropertiesChanged to have all that a piece of work changes.
_SETTLE = 0.02


class Signals:
    """An `Observer` that emits signals, on one connection after the other.

    Args:
        on_change: each is called at once when something changes that replies describe.
        on_added: is called with every new entry.
        on_pch_added: is called with every new precompiled header.
    """

    def __init__(
        self,
        *on_change: Callable[[], None],
        on_added: Callable[[Entry], None] | None = None,
        on_pch_added: Callable[[Pch], None] | None = None,
    ) -> None:
        self._on_change = on_change
        self._on_pch_added = on_pch_added
        self._on_added = on_added
        self._connection: Connection | None = None
        self._interface: Interface | None = None
        self._emitted: dict[str, object] = {}
        self._timer: asyncio.TimerHandle | None = None

    def attach(
        self, connection: Connection, interface: Interface, describe: Callable[[Entry], Served]
    ) -> None:
        """Emit signals on this connection from now on.

        Args:
            interface: the one that the connection exports.
            describe: an entry as it is served.
        """
        self._connection = connection
        self._interface = interface
        self._describe = describe
        self._emitted = self._current()

    def detach(self) -> None:
        """Emit nothing until the next connection."""
        self._connection = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def entry_added(self, entry: Entry) -> None:
        """Emit EntryAdded."""
        if self._on_added is not None:
            self._on_added(entry)
        if self._connection is not None:
            described = variants(details(self._describe(entry)))
            self._emit("EntryAdded", "ssa{sv}", [entry.release, str(entry.path), described])

    def pch_added(self, pch: Pch) -> None:
        """Emit nothing: it is no entry."""
        if self._on_pch_added is not None:
            self._on_pch_added(pch)

    def entry_removed(self, entry: Entry, reason: str) -> None:
        """Emit EntryRemoved."""
        self._call_back()
        self._emit("EntryRemoved", "sss", [entry.release, str(entry.path), reason])

    def progress(self, release: Release, stage: str, fraction: float) -> None:
        """Emit Progress."""
        self._emit("Progress", "ssd", [release, stage, fraction])

    def changed(self) -> None:
        """Emit PropertiesChanged soon, once for several changes."""
        self._call_back()
        if self._timer is None and self._connection is not None:
            self._timer = asyncio.get_running_loop().call_later(_SETTLE, self._emit_changed)

    def _call_back(self) -> None:
        for call in self._on_change:
            call()

    def _emit_changed(self) -> None:
        self._timer = None
        current = self._current()
        changed = [name for name, value in current.items() if self._emitted.get(name) != value]
        self._emitted = current
        if changed and self._connection is not None:
            self._connection.properties_changed(SERVICE_PATH, SERVICE, changed)

    def _current(self) -> dict[str, object]:
        assert self._interface is not None
        properties = self._interface.properties
        return {name: known.get() for name, known in properties.items() if known.emits == "true"}

    def _emit(self, member: str, signature: str, values: Sequence[object]) -> None:
        if self._connection is not None:
            self._connection.emit(SERVICE_PATH, SERVICE, member, signature, values)
