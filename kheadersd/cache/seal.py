"""Noticing that a tree was disturbed, for the price of two stats."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Where deletions usually happen first. Directories: their ctime changes with every name that comes or goes.
_ALWAYS = ("", "include/linux")
# Files whose loss or change makes a tree useless; a directory's ctime says nothing of their content.
_FILES = (
    "include/linux/kconfig.h",
    "include/linux/types.h",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
)
_MOST = 96
_PAUSE = 0.01

Stamp = tuple[int, int, int]
"""Inode, ctime in nanoseconds, and size: ctime, since programs that delete by age set mtime back."""


class Seal:
    """The stamps of a tree's main directories and files, and the tree's path.

    A directory's ctime changes with every name made, removed or renamed in it, so that fifty of them stand
    for most of a tree. What it cannot notice: content changed in place, except in four files; names removed
    deeper than include/* and arch/<srcarch>/include/*; what happened in the last 10 ms outside of the three
    main directories. `Cache.verify` notices all of it.
    """

    __slots__ = ("_deeper", "_looked", "_main", "tree")

    def __init__(self, tree: Path, stamps: dict[str, Stamp]) -> None:
        self.tree = tree
        base = os.fspath(tree)
        placed = [(name, f"{base}/{name}" if name else base, stamp) for name, stamp in stamps.items()]
        self._main = tuple(item for item in placed if item[0] in _ALWAYS)
        self._deeper = tuple(item for item in placed if item[0] not in _ALWAYS)
        self._looked = -_PAUSE

    @classmethod
    def take(cls, tree: Path) -> Seal:
        """Seal a tree as it is now.

        Raises:
            OSError: it is not there.
        """
        stamps: dict[str, Stamp] = {}
        for name in _sentinels(tree):
            path = tree / name
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                if name:
                    continue
                raise
            stamps[name] = (status.st_ino, status.st_ctime_ns, status.st_size)
        return cls(tree, stamps)

    def at(self, tree: Path) -> Seal:
        """The same seal after the directory above the tree was renamed."""
        return Seal(tree, self.stamps())

    def stamps(self) -> dict[str, Stamp]:
        return {name: stamp for name, _, stamp in (*self._main, *self._deeper)}

    def intact(self) -> bool:
        """Whether nothing that the seal can notice has happened.

        Takes two stats (6 µs), and those of all sentinels (some 0.15 ms) if that was not done in the last
        10 ms: a caller who asks once in a while gets the thorough answer, one who asks without end the quick
        one.
        """
        if not _unchanged(self._main):
            return False
        now = time.monotonic()
        if now - self._looked < _PAUSE:
            return True
        self._looked = now
        if _unchanged(self._deeper):
            return True
        self._looked = -_PAUSE
        return False

    def encode(self) -> bytes:
        return json.dumps({"version": 1, "stamps": self.stamps()}).encode()

    def matches(self, encoded: bytes) -> bool:
        """Whether ``encoded`` is this seal, kept from an earlier time; False for any nonsense."""
        return encoded == self.encode()


def _unchanged(sentinels: tuple[tuple[str, str, Stamp], ...]) -> bool:
    lstat = os.lstat
    try:
        for _, path, (inode, ctime, size) in sentinels:
            status = lstat(path)
            if status.st_ino != inode or status.st_ctime_ns != ctime or status.st_size != size:
                return False
    except OSError:
        return False
    return True


def _sentinels(tree: Path) -> list[str]:
    names = [*_ALWAYS, *_FILES, "include", "include/generated", "arch"]
    for arch in _directories(tree, "arch"):
        names += [arch, f"{arch}/include", *_directories(tree, f"{arch}/include")]
    names += _directories(tree, "include")
    return list(dict.fromkeys(names))[:_MOST]


def _directories(tree: Path, name: str) -> list[str]:
    """The directories in a directory of the tree, sorted, relative to the tree; none if it is not there."""
    try:
        with os.scandir(tree / name) as children:
            return sorted(f"{name}/{child.name}" for child in children if child.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
