# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the directory of the cache has at start: sorted into entries, leftovers, and what is removed."""

from __future__ import annotations

import dataclasses
import os
import stat
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..system import disk, files
from . import manifest, pch_files, records
from .entry import Entry, Record, is_entry_name
from .hidden import ASIDE, STAGING, TRASH, new_name
from .integrity import Integrity
from .leftovers import Leftover, Stay
from .records import OtherVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

_MAX_MARK = 4 << 20
_INTERRUPTED = "left over from an interrupted run"


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """What was found at start.

    Attributes:
        entries: those that were loaded. Those that are not `Entry.is_durable` are to be made so.
        damaged: those of them that are damaged and stay because they are leased, and what is wrong.
        leftovers: what takes space besides.
        cleared: names of what was removed, and why.
        aside: names of entries of another version of the daemon, which were renamed, and of which.
        unknown: names in the directory that are not the daemon's, left alone.
        problems: what could not be removed, or not be read now and was left alone, a sentence each.
    """

    entries: list[Entry] = dataclasses.field(default_factory=list)
    damaged: list[tuple[Entry, str]] = dataclasses.field(default_factory=list)
    leftovers: list[Leftover] = dataclasses.field(default_factory=list)
    cleared: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    aside: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    unknown: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)


def recover(directory: Path, foreign: Collection[str], is_leased: Callable[[str, int], bool]) -> Recovered:
    """Clear what a crash left, and load the entries; blocking.

    What is damaged is removed, unless it is leased. What cannot be read at this moment stays, unknown.

    Args:
        foreign: names that belong to other parts of the daemon, with what is for one run in "run-*".
        is_leased: whether a directory is leased, given the name of the entry and its inode.

    Raises:
        DiskError: the directory cannot be read.
    """
    with disk.explained("read the cache", directory):
        # Hidden names first: an entry that was set aside can get its name back.
        names = sorted(os.listdir(directory))
    recovery = _Recovery(is_leased)
    for name in names:
        if name in foreign:
            # A download's scratch directory (`PackageWork`): it can have more than a GiB.
            for left in (directory / name).glob("run-*"):
                recovery.found.problems.extend(disk.remove_tree(left))
        else:
            recovery.take(directory / name)
    return recovery.found


class _Recovery:
    def __init__(self, is_leased: Callable[[str, int], bool]) -> None:
        self.found = Recovered()
        self._is_leased = is_leased

    def take(self, path: Path) -> None:
        """Take up one name in the directory of the cache."""
        try:
            if path.name.startswith(STAGING):
                self._clear(path, _INTERRUPTED)
            elif path.name.startswith(TRASH):
                self._take_trash(path)
            elif path.name.startswith(ASIDE):
                self._take_aside(path)
            elif is_entry_name(path.name):
                self._load(path)
            else:
                self.found.unknown.append(path.name)
        except OSError as error:
            self.found.problems.append(
                f"{path} stays, and is not used until the next start: it cannot be read now: "
                f"{error.strerror or error}"
            )

    def _load(self, path: Path) -> None:
        inode = os.lstat(path).st_ino
        leased = self._is_leased(path.name, inode)
        try:
            entry, damage = load(path, is_leased=leased)
        except OtherVersion as error:
            if not leased:
                aside = new_name(path.parent, ASIDE)
                path.rename(aside)
                self.found.aside.append((path.name, f"of its record, {error}"))
                path = aside
            self._leave(Stay.OTHER_VERSION, path)
        except Corrupt as error:
            if leased:
                self.found.problems.append(
                    f"{path} is damaged, and stays until its leases end: {error.message}"
                )
                self._leave(Stay.LEASED, path)
            else:
                self._clear(path, error.message)
        else:
            self.found.entries.append(entry)
            if damage:
                self.found.damaged.append((entry, damage))

    def _take_trash(self, path: Path) -> None:
        """Go on to remove what was being removed, but for what is still leased."""
        try:
            record, _ = _read_record(path)
            leased = self._is_leased(record.name, os.lstat(path).st_ino)
        except (Corrupt, OtherVersion):
            leased = False
        if leased:
            self._leave(Stay.LEASED, path, record.name)
        else:
            self._clear(path, _INTERRUPTED)

    def _take_aside(self, path: Path) -> None:
        """Give an entry that is of this version, as this one runs again, its name back if that is free."""
        try:
            record, _ = _read_record(path)
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
        path.rename(target)
        self._load(target)

    def _leave(self, stay: Stay, path: Path, name: str = "") -> None:
        try:
            last_used = os.lstat(path / "entry.json").st_mtime_ns // 1000
        except OSError:
            last_used = 0
        self.found.leftovers.append(Leftover.of(stay, path, name or path.name, last_used))

    def _clear(self, path: Path, why: str) -> None:
        self.found.cleared.append((path.name, why))
        self.found.problems.extend(disk.remove_tree(path))


def load(directory: Path, *, is_leased: bool) -> tuple[Entry, str]:
    """Load an entry at start; blocking, some 30 ms, or 0.2 s if its files have to be compared.

    An entry with its durable mark, and no change since, is taken as it is. Every other one is compared with
    its manifest.

    Args:
        is_leased: whether programs may be working in it: then a damaged one is loaded too.

    Returns:
        The entry, and what is damaged of it, "" if nothing is.

    Raises:
        Corrupt: it is damaged, as the message says, and not leased; or its record is.
        OtherVersion: its record is that of another version.
        OSError: it cannot be read now, which says nothing about it.
    """
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        raise Corrupt("it is not a directory")
    record, last_used = _read_record(directory)
    if record.name != directory.name:
        raise Corrupt(f"its record is that of {record.name}")
    damage = ""
    try:
        integrity, is_durable = _examine(directory, record)
    except Corrupt as error:
        if not is_leased:
            raise
        integrity, is_durable, damage = Integrity(directory / "tree", {}), False, error.message
    entry = Entry(record, directory, status.st_ino, integrity, last_used)
    entry.is_durable, entry.is_damaged = is_durable, bool(damage)
    entry.given_at = records.on_monotonic_clock(last_used)
    entry.pchs = pch_files.load(directory, remove_damaged=not is_leased)
    return entry, damage


def _examine(directory: Path, record: Record) -> tuple[Integrity, bool]:
    """The integrity of an entry's tree, and whether all of it is known to be on the disk.

    Raises:
        Corrupt: it is not what was made.
        OSError: it cannot be read now.
    """
    try:
        integrity = Integrity.of(directory / "tree")
    except (FileNotFoundError, NotADirectoryError):
        raise Corrupt("its tree is missing") from None
    try:
        mark = files.read_file(directory / "durable", _MAX_MARK, follow=False)
    except (FileNotFoundError, files.UnfitFile):
        mark = b""
    if not record.headers_kept and not mark:
        # It is marked once a program was compiled with what is left.
        raise Corrupt("the daemon ended while its headers were being dropped")
    if integrity.matches(mark):
        return integrity, True
    problems = manifest.verify(directory, record.manifest_sha256)
    damages = [problem for problem in problems if not isinstance(problem, manifest.Unread)]
    if damages:
        raise Corrupt("; ".join(damages[:3]))
    if problems:
        raise OSError(0, problems[0])
    return integrity, False


def _read_record(directory: Path) -> tuple[Record, int]:
    """The record of an entry, and when it was last used; raises as `records.read`."""
    return records.read(directory / "entry.json", Record.decode)
