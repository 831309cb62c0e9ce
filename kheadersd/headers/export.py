# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers as a stream, for callers that see the bus and not the cache: in containers.

A descriptor of a directory would be simpler, and would lead out of any container by its "..".
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from typing import TYPE_CHECKING

from ..cache.tar_writer import spoil, write_archive
from ..errors import KheadersError, LimitsExceeded, Timeout
from ..system.tasks import Background, Cancelled, Threads, in_thread, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache.entry import Entry

MAX_TOTAL = 16
MAX_PER_USER = 4
"""Streams at a time. Root may have all of them."""

_TIME_LIMIT = 600.0  # seconds; a reader that does not read must not keep a thread for ever


class Exports:
    """The streams that are being read. Belongs to the event loop.

    Args:
        on_failure: called when a stream is cut short; the error is Corrupt if the entry is damaged.
    """

    def __init__(self, on_failure: Callable[[Entry, KheadersError], None]) -> None:
        self._on_failure = on_failure
        self._of_user: collections.Counter[int] = collections.Counter()
        self._background = Background()
        self._threads = Threads(MAX_TOTAL)

    async def close(self) -> None:
        """Cut short all streams that are still being read."""
        await self._background.close()

    def start(self, entry: Entry, uid: int, on_end: Callable[[], None]) -> int:
        """Begin to write the headers of an entry as a tar archive.

        Args:
            uid: the caller's.
            on_end: called when nothing of the entry is needed any more, also when this fails.

        Returns:
            The end of a pipe to read from, the caller's to close. The archive is whole exactly if it ends as
            tar archives do, with two blocks of zeros: they are written once every file was found to be as it
            was extracted. GNU tar fails on one that is cut short.

        Raises:
            LimitsExceeded: too many are being read, or the daemon has no descriptors left.
            Vanished, DiskError: the entry cannot be read.
        """
        with contextlib.ExitStack() as at_failure:
            at_failure.callback(on_end)
            if self._of_user.total() >= MAX_TOTAL or (uid and self._of_user[uid] >= MAX_PER_USER):
                raise LimitsExceeded("too many headers are being exported; wait until some have been read")
            reader, writer = _pipe()
            at_failure.pop_all()
        self._of_user[uid] += 1
        self._background.start(self._write(entry, writer, uid, on_end))
        return reader

    async def _write(self, entry: Entry, writer: int, uid: int, on_end: Callable[[], None]) -> None:
        cancelled = threading.Event()
        work = in_thread(_write_to_pipe, entry, writer, cancelled, cancelled=cancelled, threads=self._threads)
        try:
            await within(_TIME_LIMIT, work, _late)
        except Cancelled:
            pass
        except LimitsExceeded as error:  # before a thread was started
            spoil(writer)
            os.close(writer)
            self._on_failure(entry, error)
        except KheadersError as error:
            self._on_failure(entry, error)
        finally:
            self._of_user[uid] -= 1
            on_end()


def _pipe() -> tuple[int, int]:
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise LimitsExceeded(f"the headers cannot be exported: {error.strerror}; try again later") from error
    os.set_blocking(writer, False)
    return reader, writer


def _late() -> Timeout:
    return Timeout(f"the reader of an export did not read all of it within {_TIME_LIMIT:g} s")


def _write_to_pipe(entry: Entry, pipe: int, cancelled: threading.Event) -> None:
    # The thread's own, to the end: one that hangs must not find another file by this number.
    try:
        write_archive(entry, pipe, cancelled)
    finally:
        os.close(pipe)
