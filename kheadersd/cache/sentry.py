"""Watches the trees of all entries, so that a disturbance is known when the entry is next handed out."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..inotify import OVERFLOW, Inotify

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from .seal import Seal


class Sentry:
    """One inotify instance, and which of its watches belongs to whose seal. Watches nothing until opened."""

    def __init__(self) -> None:
        self._seals: dict[int, Seal] = {}
        self._inotify: Inotify | None = None

    def open(self) -> None:
        """Begin. Nothing is watched where there is no instance to be had (fs.inotify.max_user_instances)."""
        if self._inotify is None:
            with contextlib.suppress(OSError):
                self._inotify = Inotify()

    def close(self) -> None:
        """Watch nothing any more. May be called twice."""
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
        self._seals.clear()

    def watch(self, seal: Seal, directories: Iterable[Path]) -> bool:
        """Watch all the directories of a tree, or none of them.

        Returns:
            False if not all can be watched: some are gone, or fs.inotify.max_user_watches is reached.
        """
        if self._inotify is None:
            return False
        try:
            for directory in directories:
                self._seals[self._inotify.add(directory)] = seal
        except OSError:
            self.forget(seal)
            return False
        return True

    def forget(self, seal: Seal) -> None:
        """Watch a tree no more."""
        for number in [number for number, owner in self._seals.items() if owner is seal]:
            del self._seals[number]
            if self._inotify is not None:
                self._inotify.remove(number)

    def look(self) -> None:
        """Let every seal know what has happened to its tree; a microsecond if nothing has."""
        if self._inotify is None:
            return
        for number in self._inotify.changed():
            if number == OVERFLOW:
                for seal in self._seals.values():
                    seal.doubt()
            elif (seal_of := self._seals.get(number)) is not None:
                seal_of.break_()
