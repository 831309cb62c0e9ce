"""Noticing that a tree was disturbed, for the price of three system calls."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.file_identity import identity_at, identity_of, stored_identity

if TYPE_CHECKING:
    from ..system.file_identity import FileIdentity
    from .sentry import Sentry

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


class Seal:
    """What a tree was like when it was made, and whether it still is.

    A `Sentry` watches all of the tree's directories (some 320), and tells of every name, content and mode
    that changes; of what is written through a mapping, once it is unmapped. Where it cannot
    (fs.inotify.max_user_watches, max_user_instances), stamps are compared: a directory's ctime changes with
    every name made, removed or renamed in it. Then content changed in place, except in four files, is not
    noticed, nor what happened in the last 20 ms outside of the two main directories. At the next start, and
    by `Cache.verify`, all of it is noticed.
    """

    __slots__ = ("_broken", "_deeper", "_looked", "_main", "_sentry", "tree")

    def __init__(self, tree: Path, stamps: dict[str, FileIdentity]) -> None:
        self.tree = tree
        base = os.fspath(tree)
        placed = [(name, f"{base}/{name}" if name else base, stamp) for name, stamp in stamps.items()]
        self._main = tuple(item for item in placed if item[0] in _ALWAYS)
        self._deeper = tuple(item for item in placed if item[0] not in _ALWAYS)
        self._looked = -_PAUSE
        self._broken = False
        self._sentry: Sentry | None = None

    @classmethod
    def take(cls, tree: Path) -> Seal:
        """Seal a tree as it is now.

        Raises:
            OSError: it is not there.
        """
        stamps: dict[str, FileIdentity] = {}
        for name in _sentinels(tree):
            path = tree / name
            try:
                status = os.lstat(path)
            except FileNotFoundError:
                if name:
                    continue
                raise
            stamps[name] = identity_of(status)
        return cls(tree, stamps)

    def at(self, tree: Path) -> Seal:
        """The same seal after the directory above the tree was renamed."""
        return Seal(tree, self.stamps())

    def stamps(self) -> dict[str, FileIdentity]:
        return {name: stamp for name, _, stamp in (*self._main, *self._deeper)}

    def guard(self, sentry: Sentry) -> None:
        """Have the directories watched from now on, some 2 ms; until now nobody has."""
        directories = [Path(path) for name, path, _ in (*self._main, *self._deeper) if name not in _FILES]
        if sentry.watch(self, directories):
            self._sentry = sentry
            self.doubt()

    def unguard(self) -> None:
        """Watch no more: the entry has left."""
        if self._sentry is not None:
            self._sentry.forget(self)
            self._sentry = None

    def break_(self) -> None:
        """Something was changed."""
        self._broken = True

    def doubt(self) -> None:
        """Something may have been changed unseen."""
        self._looked = -_PAUSE

    def intact(self) -> bool:
        """Whether nothing that the seal can notice has happened; once broken, it stays so.

        Takes two stats and a read: 7 µs.
        """
        if self._sentry is not None:
            self._sentry.look()
        if not self._broken:
            self._broken = not (_unchanged(self._main) and self._looks_unchanged())
        return not self._broken

    def _looks_unchanged(self) -> bool:
        now = time.monotonic()
        is_recent = self._looked > 0 if self._sentry is not None else now - self._looked < _PAUSE
        if not is_recent:
            if not _unchanged(self._deeper):
                return False
            self._looked = now
        return True

    def encode(self, fingerprint: str) -> bytes:
        """The seal to be kept, with the `fingerprint` of the tree."""
        return self._encoded_stamps() + json.dumps(fingerprint).encode() + b"}"

    def matches(self, encoded: bytes) -> bool:
        """Whether ``encoded`` is this seal, kept from an earlier time; False for any nonsense.

        Blocking, some 30 ms: all files are looked at.

        Raises:
            OSError: a directory cannot be read now.
        """
        return encoded.startswith(self._encoded_stamps()) and encoded == self.encode(
            fingerprint(self.tree)[1]
        )

    def _encoded_stamps(self) -> bytes:
        # Without the device, whose number can change at a reboot.
        stamps = json.dumps({name: identity[1:] for name, identity in self.stamps().items()})
        return f'{{"version": 2, "stamps": {stamps}, "fingerprint": '.encode()


def fingerprint(tree: Path) -> tuple[int, str]:
    """What any change of a tree changes, of a name or of a content; blocking, some 30 ms for 6,000 files.

    Returns:
        The number of regular files, and a digest over the name, inode, ctime and size of all.

    Raises:
        OSError: a directory is not there any more, or cannot be read now.
    """
    import hashlib

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


def _unchanged(sentinels: tuple[tuple[str, str, FileIdentity], ...]) -> bool:
    # A generator would take half as long again, at each request.
    for _, path, identity in sentinels:  # noqa: SIM110
        if identity_at(path, follow=False) != identity:
            return False
    return True


def _sentinels(tree: Path) -> list[str]:
    """What is sealed, relative to the tree: the main directories first, the files, then all directories."""
    names = [*_ALWAYS, *_FILES]
    pending = [""]
    while pending and len(names) < _MOST:
        found = _directories(tree, pending.pop())
        names += found
        pending += found
    return list(dict.fromkeys(names))[:_MOST]


def _directories(tree: Path, name: str) -> list[str]:
    """The directories in a directory of the tree, sorted, relative to the tree; none if it is not there."""
    try:
        with os.scandir(tree / name) as children:
            names = [child.name for child in children if child.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(f"{name}/{child}" if name else child for child in names)
