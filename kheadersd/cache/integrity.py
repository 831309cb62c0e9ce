# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices that a tree was changed, for the price of three system calls."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.file_identity import identity_at, identity_of, stored_identity
from ..system.inotify import ATTRIB, OVERFLOW, Inotify
from .manifest import DIRECTORY_MODE, FILE_MODE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..system.file_identity import FileIdentity

# Where deletions usually happen first. Directories: their ctime changes with every name that comes or goes.
_ALWAYS = ("", "include/linux")
# Files whose loss or change makes a tree useless; a directory's ctime says nothing of their content.
_FILES = (
    "include/linux/kconfig.h",
    "include/linux/types.h",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
)
_MOST = 4096
_PAUSE = 0.02


class Integrity:
    """What a tree was like when it was made, and whether it still is.

    A `TreeWatch` watches all of the tree's directories (some 320), and tells of every name, content and mode
    that changes; of what is written through a mapping, once it is unmapped. Where it cannot
    (fs.inotify.max_user_watches, max_user_instances), identities of files are compared: a directory's ctime
    changes with every name made, removed or renamed in it. Then content changed in place, except in four
    files, is not noticed, nor what happened in the last 20 ms outside of the two main directories. At the
    next start, and by `Entry.verify`, all of it is noticed.
    """

    __slots__ = ("_changed", "_deeper", "_looked", "_main", "_watch", "tree")

    def __init__(self, tree: Path, identities: dict[str, FileIdentity]) -> None:
        self.tree = tree
        base = os.fspath(tree)
        placed = [(name, f"{base}/{name}" if name else base, known) for name, known in identities.items()]
        self._main = tuple(item for item in placed if item[0] in _ALWAYS)
        self._deeper = tuple(item for item in placed if item[0] not in _ALWAYS)
        self._looked = -_PAUSE
        self._changed = False
        self._watch: TreeWatch | None = None

    @classmethod
    def of(cls, tree: Path, directories: Iterable[str] | None = None) -> Integrity:
        """That of a tree as it is now.

        Args:
            directories: the names of all directories in the tree, where they are known: to look for them
                takes as long again.

        Raises:
            OSError: it is not there.
        """
        identities: dict[str, FileIdentity] = {}
        base = os.fspath(tree)
        for name in _compared(_lister(tree, directories)):
            try:
                status = os.lstat(f"{base}/{name}" if name else base)
            except FileNotFoundError:
                if name:
                    continue
                raise
            identities[name] = identity_of(status)
        return cls(tree, identities)

    def at(self, tree: Path) -> Integrity:
        """The same after the directory above the tree was renamed."""
        return Integrity(tree, self._identities())

    def watch(self, watch: TreeWatch) -> None:
        """Have the directories watched from now on, some 2 ms; until now nothing watches them."""
        directories = [Path(path) for name, path, _ in (*self._main, *self._deeper) if name not in _FILES]
        if watch.add(self, directories):
            self._watch = watch
            self.on_unknown_change()

    def unwatch(self) -> None:
        """End watching: the entry is removed."""
        if self._watch is not None:
            self._watch.remove(self)
            self._watch = None

    def on_change(self) -> None:
        """Something in the tree was changed."""
        self._changed = True

    def on_unknown_change(self) -> None:
        """Something may have been changed that was not watched."""
        self._looked = -_PAUSE

    def is_unchanged(self) -> bool:
        """Whether no change was noticed; once one was, the answer stays False.

        Takes two stats and a read: 7 µs.
        """
        if self._watch is not None:
            self._watch.read()
        if not self._changed:
            self._changed = not (_are_unchanged(self._main) and self._is_deeper_unchanged())
        return not self._changed

    def _is_deeper_unchanged(self) -> bool:
        now = time.monotonic()
        is_recent = self._looked > 0 if self._watch is not None else now - self._looked < _PAUSE
        if not is_recent:
            if not _are_unchanged(self._deeper):
                return False
            self._looked = now
        return True

    def encode(self, tree_fingerprint: str) -> bytes:
        """The content of the file "durable", with the `fingerprint` of the tree."""
        return self._encoded_identities() + json.dumps(tree_fingerprint).encode() + b"}"

    def matches(self, encoded: bytes) -> bool:
        """Whether ``encoded`` tells of this tree as it is now; False for any nonsense.

        Blocking, some 30 ms: all files are looked at.

        Raises:
            OSError: a directory cannot be read now.
        """
        return encoded.startswith(self._encoded_identities()) and encoded == self.encode(
            fingerprint(self.tree)[1]
        )

    def _identities(self) -> dict[str, FileIdentity]:
        return {name: identity for name, _, identity in (*self._main, *self._deeper)}

    def _encoded_identities(self) -> bytes:
        # Without the device, whose number can change at a reboot.
        stamps = json.dumps({name: identity[1:] for name, identity in self._identities().items()})
        return f'{{"version": 2, "stamps": {stamps}, "fingerprint": '.encode()


class TreeWatch:
    """Watches the trees of all entries by one inotify instance. Watches nothing until `start`."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Integrity, Path]] = {}
        self._inotify: Inotify | None = None

    def start(self) -> None:
        """Begin. Nothing is watched where there is no instance to be had (fs.inotify.max_user_instances)."""
        if self._inotify is None:
            with contextlib.suppress(OSError):
                self._inotify = Inotify(closely=True)

    def stop(self) -> None:
        """Watch nothing any more. May be called twice."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._watched.clear()

    def add(self, integrity: Integrity, directories: Iterable[Path]) -> bool:
        """Watch all the directories of a tree, or none of them.

        Returns:
            False if not all can be watched: some are gone, or fs.inotify.max_user_watches is reached.
        """
        if self._inotify is None:
            return False
        try:
            for directory in directories:
                self._watched[self._inotify.add(directory)] = integrity, directory
        except OSError:
            self.remove(integrity)
            return False
        return True

    def remove(self, integrity: Integrity) -> None:
        """Watch a tree no more."""
        for number in [number for number, (owner, _) in self._watched.items() if owner is integrity]:
            del self._watched[number]
            if self._inotify is not None:
                self._inotify.remove(number)

    def read(self) -> None:
        """Tell every tree what was changed in it; a microsecond if nothing was."""
        if self._inotify is None:
            return
        for number, kind, name in self._inotify.events():
            if number == OVERFLOW:
                for integrity, _ in self._watched.values():
                    integrity.on_unknown_change()
            elif (watched := self._watched.get(number)) is not None:
                integrity, directory = watched
                if kind != ATTRIB or not _has_its_mode(directory, name):
                    integrity.on_change()


def _has_its_mode(directory: Path, name: bytes) -> bool:
    """Whether a file or directory of a tree has still the mode that it was made with.

    Other attributes do not matter: backups set the time of access back, and security labels come and go.
    """
    try:
        mode = os.lstat(os.fsencode(directory) + b"/" + name).st_mode
    except OSError:
        return False
    wanted = DIRECTORY_MODE if stat.S_ISDIR(mode) else FILE_MODE
    return stat.S_ISLNK(mode) or stat.S_IMODE(mode) == wanted


def fingerprint(tree: Path) -> tuple[int, str]:
    """What any change of a tree changes, of a name or of a content; blocking, some 30 ms for 6,000 files.

    Returns:
        The number of regular files, and a digest over the name, inode, ctime and size of all.

    Raises:
        OSError: a directory is not there any more, or cannot be read now.
    """
    count = 0
    lines: list[str] = []
    pending = [os.fspath(tree)]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            children = sorted(entries, key=lambda child: child.name)
        lines.append(f"{directory[len(os.fspath(tree)) :]}/")
        for child in children:
            status = child.stat(follow_symlinks=False)
            lines.append(f"{child.name}\0{stored_identity(status)}")
            if stat.S_ISDIR(status.st_mode):
                pending.append(child.path)
            elif stat.S_ISREG(status.st_mode):
                count += 1
    return count, hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _are_unchanged(compared: tuple[tuple[str, str, FileIdentity], ...]) -> bool:
    # A generator would take half as long again, at each request.
    for _, path, identity in compared:  # noqa: SIM110
        if identity_at(path, follow=False) != identity:
            return False
    return True


def _compared(directories_in: Callable[[str], Iterable[str]]) -> list[str]:
    """What is compared, relative to the tree: the main directories first, the files, then all directories.

    Args:
        directories_in: the directories in a directory, sorted, all relative to the tree.
    """
    names = [*_ALWAYS, *_FILES]
    pending = [""]
    while pending and len(names) < _MOST:
        found = directories_in(pending.pop())
        names += found
        pending += found
    return list(dict.fromkeys(names))[:_MOST]


def _lister(tree: Path, directories: Iterable[str] | None) -> Callable[[str], Iterable[str]]:
    """What lists the directories in a directory of the tree: on the disk, or of those that are known."""
    if directories is None:
        return functools.partial(_directories, tree)
    children: dict[str, list[str]] = {}
    for name in sorted(directories):
        children.setdefault(name.rpartition("/")[0], []).append(name)
    return lambda name: children.get(name, ())


def _directories(tree: Path, name: str) -> list[str]:
    """The directories in a directory of the tree, sorted, relative to the tree; none if it is not there."""
    try:
        with os.scandir(tree / name) as children:
            names = [child.name for child in children if child.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(f"{name}/{child}" if name else child for child in names)
