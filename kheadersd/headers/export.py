"""Headers as a stream, for those who see the bus and not the cache: in containers.

A descriptor of a directory would be simpler, and would lead out of any container by its "..".
"""

from __future__ import annotations

import collections
import os
import threading
from typing import TYPE_CHECKING

from ..errors import KheadersError, LimitsExceeded, Timeout
from ..system.tasks import Background, Cancelled, Threads, in_thread, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache.entry import Entry

MAX_TOTAL = 16
MAX_PER_USER = 4
"""Streams at a time. Root may have all of them."""

_TIME_LIMIT = 600.0  # seconds; a reader who does not read must not keep a thread for ever


class Exports:
    """The streams that are being read. Belongs to the event loop.

    Args:
        on_failure: called when a stream was cut short, with what is wrong: Corrupt if it is the entry.
    """

    def __init__(self, on_failure: Callable[[Entry, KheadersError], None]) -> None:
        self._on_failure = on_failure
        self._of_user: collections.Counter[int] = collections.Counter()
        self._background = Background()
        self._threads = Threads(MAX_TOTAL)

    async def close(self) -> None:
        """Cut off what is still being read."""
        await self._background.close()

    async def start(self, entry: Entry, uid: int, ended: Callable[[], None]) -> int:
        """Begin to write the headers of an entry as a tar archive.

        Args:
            uid: of who asked for it.
            ended: called when nothing of the entry is needed any more, also when this fails.

        Returns:
            The end of a pipe to read from, the caller's to close. The archive is whole exactly if it ends as
            tar archives do, with two blocks of zeros: they are written once every file was found to be as it
            was extracted.

        Raises:
            LimitsExceeded: too many are being read, or the daemon has no descriptors left.
            Vanished, DiskError: the entry cannot be read.
        """
        try:
            if self._of_user.total() >= MAX_TOTAL or (uid and self._of_user[uid] >= MAX_PER_USER):
                raise LimitsExceeded("too many headers are being exported; wait until some have been read")
            self._of_user[uid] += 1
            try:
                reader, writer = _pipe()
            except BaseException:
                self._of_user[uid] -= 1
                raise
        except BaseException:
            ended()
            raise
        self._background.start(self._see_to_its_end(entry, writer, uid, ended))
        return reader

    async def _see_to_its_end(self, entry: Entry, writer: int, uid: int, ended: Callable[[], None]) -> None:
        cancelled = threading.Event()
        work = in_thread(_write, entry, writer, cancelled, cancelled=cancelled, threads=self._threads)
        try:
            await within(_TIME_LIMIT, work, _late)
        except Cancelled:
            pass
        except LimitsExceeded as error:  # no thread was begun
            os.close(writer)
            self._on_failure(entry, error)
        except KheadersError as error:
            self._on_failure(entry, error)
        finally:
            self._of_user[uid] -= 1
            ended()


def _pipe() -> tuple[int, int]:
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        raise LimitsExceeded(f"the headers cannot be exported: {error.strerror}; try again later") from error
    os.set_blocking(writer, False)
    return reader, writer


def _late() -> Timeout:
    return Timeout(f"the reader of an export did not read all of it within {_TIME_LIMIT:g} s")


def _write(entry: Entry, pipe: int, cancelled: threading.Event) -> None:
    from ..cache.tar_writer import write_archive  # here, as most daemons are never asked for an export

    # The thread's own, to the end: one that hangs must not find another file by this number.
    try:
        write_archive(entry, pipe, cancelled)
    finally:
        os.close(pipe)
