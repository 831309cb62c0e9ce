"""Watches the trees of all entries, so that a disturbance is known when the entry is next handed out."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from ..system.inotify import ATTRIB, OVERFLOW, Inotify
from .manifest import DIRECTORY_MODE, FILE_MODE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .seal import Seal


class Sentry:
    """One inotify instance, and which of its watches belongs to whose seal. Watches nothing until opened."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Seal, Path]] = {}
        self._inotify: Inotify | None = None

    def open(self) -> None:
        """Begin. Nothing is watched where there is no instance to be had (fs.inotify.max_user_instances)."""
        if self._inotify is None:
            with contextlib.suppress(OSError):
                self._inotify = Inotify(closely=True)

    def close(self) -> None:
        """Watch nothing any more. May be called twice."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._watched.clear()

    def watch(self, seal: Seal, directories: Iterable[Path]) -> bool:
        """Watch all the directories of a tree, or none of them.

        Returns:
            False if not all can be watched: some are gone, or fs.inotify.max_user_watches is reached.
        """
        if self._inotify is None:
            return False
        try:
            for directory in directories:
                self._watched[self._inotify.add(directory)] = seal, directory
        except OSError:
            self.forget(seal)
            return False
        return True

    def forget(self, seal: Seal) -> None:
        """Watch a tree no more."""
        for number in [number for number, (owner, _) in self._watched.items() if owner is seal]:
            del self._watched[number]
            if self._inotify is not None:
                self._inotify.remove(number)

    def look(self) -> None:
        """Let every seal know what has happened to its tree; a microsecond if nothing has."""
        if self._inotify is None:
            return
        for number, kind, name in self._inotify.events():
            if number == OVERFLOW:
                for seal, _ in self._watched.values():
                    seal.doubt()
            elif (watched := self._watched.get(number)) is not None:
                seal, directory = watched
                if kind != ATTRIB or not _has_its_mode(directory, name):
                    seal.break_()


def _has_its_mode(directory: Path, name: bytes) -> bool:
    """Whether a file or directory of a tree has still the mode that it was made with.

    Other attributes do not matter: backups set the time of access back, and security labels come and go.
    """
    try:
        status = os.lstat(os.path.join(os.fsencode(directory), name))
    except OSError:
        return False
    mode = status.st_mode
    wanted = DIRECTORY_MODE if stat.S_ISDIR(mode) else FILE_MODE
    return stat.S_ISLNK(mode) or stat.S_IMODE(mode) == wanted
