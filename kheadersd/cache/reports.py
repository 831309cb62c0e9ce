# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the journal and the observer are told of the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..events import Event
from ..sources.source import RANDOMISED
from .entry import HEADERS

if TYPE_CHECKING:
    from ..journal import Journal
    from .cache import Cache
    from .entry import Entry
    from .leftovers import Leftover
    from .observer import CacheObserver
    from .pch_files import Pch
    from .recovery import Recovered


class Reports:
    """Belongs to the event loop."""

    def __init__(self, cache: Cache, journal: Journal, observer: CacheObserver) -> None:
        self._cache = cache
        self._journal = journal
        self._observer = observer

    def on_recovered(self, found: Recovered) -> None:
        """The cache was opened."""
        for name, why in found.cleared:
            self._cleared(name, f"Cleared {name}: {why}")
        for name, why in found.aside:
            self._cleared(name, f"Set {name} aside: {why}")
        for name in found.unknown:
            self._cleared(name, f"{name} in the cache directory is not the daemon's and was left alone")
        for problem in found.problems:
            self.on_failure(problem)
        for entry, what in found.damaged:
            self.on_damaged(entry, what)

    def on_change(self) -> None:
        """Entries were added or removed: one journal entry with the state of the cache."""
        entries = self._cache.entries()
        releases = ", ".join(sorted({entry.release for entry in entries})) or "none"
        self._journal.report(
            Event.CACHE_STATE,
            f"The cache has {len(entries)} entries, {self._cache.total_bytes()} bytes: {releases}",
            path=str(self._cache.directory),
            bytes=self._cache.total_bytes(),
            entries=len(entries),
        )
        self._observer.changed()

    def on_failure(self, problem: str) -> None:
        """Something about the cache does not work."""
        self._journal.report(
            Event.CACHE_FAILED,
            problem,
            path=str(self._cache.directory),
            error=KheadersError.bus_name,
        )

    def on_added(self, entry: Entry, seconds: float, uid: int | None) -> None:
        """An entry was published.

        Args:
            seconds: that extracting it took.
            uid: of the caller who asked for it.
        """
        record = entry.record
        what = "Extracted the headers" if record.kind == HEADERS else "Made vmlinux.h"
        self._report(
            Event.ENTRY_ADDED,
            f"{what} of {record.release} from {record.origin} ({record.source}) "
            f"to {entry.path} in {seconds:.2f} s",
            entry,
            source=record.source,
            bytes=record.bytes,
            duration_usec=int(seconds * 1e6),
            client_uid=uid,
        )
        if record.randomised:
            self._report(Event.RANDOMISED, RANDOMISED.format(record.release), entry)
        self._observer.entry_added(entry)
        self.on_change()

    def on_replaced(self, damaged: Entry) -> None:
        """A new entry takes the name of a damaged one."""
        self._observer.entry_removed(damaged, "damaged")

    def on_removed(self, entry: Entry, reason: str) -> None:
        """An entry was removed."""
        self._report(
            Event.ENTRY_REMOVED,
            f"Removed the {entry.record.kind} of {entry.release} from {entry.path}: {reason}",
            entry,
            source=entry.record.source,
            bytes=entry.bytes,
        )
        self._observer.entry_removed(entry, reason)
        self.on_change()

    def on_leftover_removed(self, leftover: Leftover, reason: str) -> None:
        """A leftover was removed."""
        name = leftover.directory.name
        self._cleared(name, f"Cleared {name}: {reason}", leftover.bytes)

    def on_damaged(self, entry: Entry, what: str) -> None:
        """An entry is not as it was made."""
        self._report(
            Event.ENTRY_DAMAGED,
            f"The {entry.record.kind} of {entry.release} in {entry.path} are damaged: {what}; "
            "they are made again when they are needed",
            entry,
        )

    def on_headers_dropped(self, entry: Entry) -> None:
        """An entry is without its headers from now on."""
        self._report(
            Event.HEADERS_DROPPED,
            f"Dropped the headers of {entry.release} in {entry.path}; what was precompiled from them stays",
            entry,
            bytes=entry.bytes,
        )
        self.on_change()

    def on_pch_added(self, message: str, entry: Entry, pch: Pch, seconds: float) -> None:
        """A precompiled header is new.

        Args:
            seconds: that compiling or fetching it took.
        """
        size, duration = pch.record.bytes, int(seconds * 1e6)
        self.on_pch(Event.PCH_ADDED, message, entry, pch, bytes=size, duration_usec=duration)
        self._observer.pch_added(pch)
        self.on_change()

    def on_pch(self, event: Event, message: str, entry: Entry, pch: Pch, **more: object) -> None:
        """A precompiled header was added, removed, or found damaged."""
        record = pch.record
        fields = {"path": str(pch.path), "profile": record.profile, "compiler": record.compiler}
        self._report(event, message, entry, **fields, **more)

    def on_pch_not_fetched(self, entry: Entry, profile: str, why: str, *, is_failure: bool) -> None:
        """A registry was asked for a precompiled header, which is compiled here now."""
        self._report(
            Event.PCH_NOT_FETCHED,
            f"What {profile} is precompiled to for {entry.release} is compiled here: {why}",
            entry,
            level=None if is_failure else "info",
            profile=profile,
        )

    def _report(self, event: Event, message: str, entry: Entry, **more: object) -> None:
        fields = {"release": entry.release, "path": str(entry.path), "digest": entry.record.digest, **more}
        self._journal.report(event, message, **fields)  # type: ignore[arg-type]

    def _cleared(self, name: str, message: str, size: int | None = None) -> None:
        self._journal.report(Event.CACHE_CLEARED, message, path=str(self._cache.directory / name), bytes=size)
