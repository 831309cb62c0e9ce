# SPDX-License-Identifier: LGPL-2.1-or-later
"""inotify(7), which tells that directories have changed; the caller looks what has changed.

Events can be lost in an overflow, and can be outdated. Of the wrappers in Debian 12 and 13, inotify and
pyinotify are not maintained any more, and watchdog starts threads.
"""

from __future__ import annotations

import ctypes
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# sys/inotify.h
_MODIFY, ATTRIB = 0x2, 0x4
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF, _ONLYDIR = 0x400, 0x800, 0x0100_0000
_NAMES_AND_CONTENT = (
    _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
)
_EVERY_CHANGE = _NAMES_AND_CONTENT | _MODIFY | ATTRIB
_BUFFER = 64 * 1024
_EVENT = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name that follows

_KINDS = 0xFFFF  # the bits above are flags, for example that it is a directory

OVERFLOW = -1
"""Stands for all watches when events were lost."""


class Inotify:
    """Watches directories, without those below them: names that are added or removed, and files written to.

    Args:
        closely: also files that are written to at this moment, or truncated by their path, and modes, owners
            and other attributes.
    """

    def __init__(self, *, closely: bool = False) -> None:
        """
        Raises:
            OSError: this user has too many instances (fs.inotify.max_user_instances), or the kernel has no
                inotify.
        """
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watches: dict[int, Path] = {}
        self._mask = _EVERY_CHANGE if closely else _NAMES_AND_CONTENT
        self._descriptor = -1
        self._descriptor = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """The descriptor, which is readable when there is something to `drain`."""
        return self._descriptor

    def close(self) -> None:
        """Stop watching. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def drain(self) -> bool:
        """Read and drop all events, and return whether there were any."""
        return bool(list(self.events()))

    def events(self) -> Iterator[tuple[int, int, bytes]]:
        """The events that have come, which are forgotten with that.

        Yields:
            The number of the watch, or `OVERFLOW`; the kind, `ATTRIB` or another; and the name in the
            directory, empty for the directory itself.
        """
        while True:
            try:
                events = os.read(self._descriptor, _BUFFER)
            except BlockingIOError:
                return
            offset = 0
            while offset < len(events):
                number, kind, _, size = _EVENT.unpack_from(events, offset)
                offset += _EVENT.size
                yield number, kind & _KINDS, events[offset : offset + size].rstrip(b"\0")
                offset += size

    def add(self, directory: Path) -> int:
        """Watch one more directory.

        Returns:
            The number of the watch; that of a directory which is watched already.

        Raises:
            OSError: it is not there; or there are too many watches (ENOSPC).
        """
        name = os.fsencode(directory)
        return self._check(self._libc.inotify_add_watch(self._descriptor, name, self._mask), name)

    def remove(self, number: int) -> None:
        """Stop watching a directory. Does nothing if it was removed: the kernel has removed the watch."""
        self._libc.inotify_rm_watch(self._descriptor, number)

    def watch(self, directories: Iterable[Path]) -> list[OSError]:
        """Watch these directories and no others; those that are watched already stay so without a gap.

        If another directory has the name of a watched one, it is watched instead.

        Returns:
            Why some are not watched: ENOSPC when there are too many (fs.inotify.max_user_watches).
            Directories that do not exist are left out.
        """
        problems: list[OSError] = []
        watches: dict[int, Path] = {}
        for directory in directories:
            try:
                # For a directory that is watched, this is the number that it has.
                watches[self.add(directory)] = directory
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                problems.append(error)
        for number in self._watches.keys() - watches.keys():
            self.remove(number)
        self._watches = watches
        return problems

    def _check(self, result: int, name: bytes = b"inotify") -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), os.fsdecode(name))
        return result
