"""What the directory of the cache has at start: sorted into entries, leftovers, and what is removed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..system import disk
from . import recovery as loading
from .entry import OtherVersion
from .leftover import Leftover, Stay
from .staging import ASIDE, STAGING, TRASH, aside_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .cache import Cache
    from .entry import Entry

_INTERRUPTED = "left over from an interrupted run"


class Opening:
    """One look at everything; blocking. Only what is damaged is removed, and nothing that is leased.

    Args:
        is_leased: whether a directory is leased, given the name of the entry and its inode.

    Attributes:
        entries: those that were loaded.
        damaged, cleared, aside, strangers, problems: see `cache.Opened`.
    """

    def __init__(self, cache: Cache, is_leased: Callable[[str, int], bool]) -> None:
        self.entries: list[Entry] = []
        self.damaged: list[tuple[Entry, str]] = []
        self.cleared: list[tuple[str, str]] = []
        self.aside: list[tuple[str, str]] = []
        self.strangers: list[str] = []
        self.problems: list[str] = []
        self._cache = cache
        self._is_leased = is_leased

    def look_at(self, path: Path) -> None:
        """Take up one name in the directory of the cache, hidden ones first."""
        try:
            if path.name.startswith(STAGING):
                self._clear(path, _INTERRUPTED)
            elif path.name.startswith(TRASH):
                self._look_at_trash(path)
            elif path.name.startswith(ASIDE):
                self._look_at_aside(path)
            else:
                self._load(path)
        except OSError as error:
            self.problems.append(
                f"{path} stays, and is not used until the next start: it cannot be read now: "
                f"{error.strerror or error}"
            )

    def _load(self, path: Path) -> None:
        inode = os.lstat(path).st_ino
        leased = self._is_leased(path.name, inode)
        try:
            entry, damage = loading.load(path, is_leased=leased)
        except OtherVersion as error:
            if not leased:
                aside = aside_name(path.parent)
                os.rename(path, aside)
                self.aside.append((path.name, f"of its record, {error}"))
                path = aside
            self._leave(Stay.OTHER_VERSION, path)
        except Corrupt as error:
            if leased:
                self.problems.append(f"{path} is damaged, and stays until its leases end: {error.message}")
                self._leave(Stay.LEASED, path)
            else:
                self._clear(path, error.message)
        else:
            self.entries.append(entry)
            if damage:
                self.damaged.append((entry, damage))

    def _look_at_trash(self, path: Path) -> None:
        """What was being removed is removed, but for what waits for a lease."""
        try:
            record, _ = loading.read_record(path)
            leased = self._is_leased(record.name, os.lstat(path).st_ino)
        except (Corrupt, OtherVersion):
            leased = False
        if leased:
            self._leave(Stay.LEASED, path, record.name)
        else:
            self._clear(path, _INTERRUPTED)

    def _look_at_aside(self, path: Path) -> None:
        """An entry that is of this version, as this one runs again, gets its name back if that is free."""
        try:
            record, _ = loading.read_record(path)
        except OtherVersion:
            self._leave(Stay.OTHER_VERSION, path)
            return
        except Corrupt as error:
            self._clear(path, error.message)
            return
        target = path.parent / record.name
        if target.exists():
            self._clear(path, "it was made anew")
            return
        os.rename(path, target)
        self._load(target)

    def _leave(self, stay: Stay, path: Path, name: str = "") -> None:
        inode, used = os.lstat(path).st_ino, loading.last_used(path)
        self._cache.leave(Leftover(stay, name or path.name, path, inode, disk.used_bytes(path), used))

    def _clear(self, path: Path, why: str) -> None:
        self.cleared.append((path.name, why))
        self.problems += disk.remove_tree(path)
