# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the cache tells the rest of the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .entry import Entry
    from .pch_files import Pch


class CacheObserver(Protocol):
    """Is called on the event loop when entries change; must be quick."""

    def entry_added(self, entry: Entry) -> None:
        """A new entry is in the cache."""

    def entry_removed(self, entry: Entry, reason: str) -> None:
        """An entry is no longer in the cache."""

    def pch_added(self, pch: Pch) -> None:
        """A new precompiled header is in the cache."""

    def changed(self) -> None:
        """The number of entries, or the space that they take, may have changed."""
        ...
