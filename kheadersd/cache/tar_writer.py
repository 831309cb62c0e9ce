# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry as a tar archive, which is complete only if every file is what was extracted.

The same headers have the same archive, byte for byte, on whatever host and from whatever source: in GNU's
format, sorted by name, with the modes that all entries have, without owners and times.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import select
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError
from ..formats.tar import BLOCK, DIRECTORY, FILE
from ..system import disk, files
from ..system.printable import quoted
from ..system.tasks import Cancelled
from . import manifest
from .manifest import DIRECTORY_MODE, FILE_MODE

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from .entry import Entry
    from .manifest import Item, Manifest

# A write of so many bytes is done as a whole or not at all, see pipe(7).
_PIECE = select.PIPE_BUF
_LONGEST_PIECE = 1 << 16
_NO_HEADER = b"\xff" * BLOCK
_RECORD = 20 * BLOCK  # what tar(1) writes at a time, and some readers expect
_LOOK_AGAIN = 250  # milliseconds after which a writer that waits for its reader looks whether it is cancelled
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_archive(entry: Entry, pipe: int, cancelled: threading.Event) -> None:
    """Write the archive; blocking, for as long as its reader takes. Ends early if the reader closes its end.

    GNU tar takes an archive for complete that ends behind a member, whatever should follow. So each piece
    ends within the content of a file, wherever the daemon may be killed, and what is cut short by an error
    has something at its end that is no header.

    Raises:
        Corrupt: the entry is not what was extracted.
        Vanished, DiskError: it cannot be read.
        Cancelled: ``cancelled`` was set.
    """
    waiter = select.poll()
    waiter.register(pipe, select.POLLOUT)
    written = 0
    with contextlib.suppress(BrokenPipeError), contextlib.closing(_pieces(entry)) as pieces:
        try:
            for piece in pieces:
                view = memoryview(piece)
                while view:
                    if cancelled.is_set():
                        raise Cancelled
                    try:
                        count = os.write(pipe, view)
                    except BlockingIOError:
                        waiter.poll(_LOOK_AGAIN)
                    else:
                        view = view[count:]
                        written += count
        except (KheadersError, Cancelled):
            spoil(pipe, written)
            raise


def spoil(pipe: int, written: int = 0) -> None:
    """Let no reader take an archive for complete of which so many bytes were written."""
    # A full pipe ends within a file, and one without a reader does not matter.
    with contextlib.suppress(OSError):
        os.write(pipe, _NO_HEADER[: -written % BLOCK] + _NO_HEADER)


def _pieces(entry: Entry) -> Generator[memoryview, None, None]:
    """The archive, whose last piece comes once all of the entry was read and compared."""
    pending = _Pending()
    with _opened(entry) as (found, tree):
        for name, item in sorted(found.entries.items()):
            pending.add(_header(name, item))
            if item.kind == FILE:
                for piece in _content(entry, tree, name, item):
                    pending.add(piece, is_content=True)
                    yield from pending.pieces()
                pending.add(bytes(-item.size % BLOCK), is_content=True)
    pending.add(bytes(2 * BLOCK))
    pending.add(bytes(-pending.total % _RECORD))
    yield from pending.pieces()
    yield from pending.rest()


class _Pending:
    """What waits to be written, and where it may be divided: within the content of files.

    Attributes:
        total: bytes that were added.
    """

    def __init__(self) -> None:
        self.total = 0
        self._data = bytearray()
        self._start = 0  # where the data begin in the archive
        self._contents: collections.deque[tuple[int, int]] = collections.deque()

    def add(self, data: bytes, *, is_content: bool = False) -> None:
        """Add what follows."""
        if is_content and data:
            # Behind its last byte may be the end of the member.
            self._contents.append((self.total, self.total + len(data) - 1))
        self._data += data
        self.total += len(data)

    def pieces(self) -> Iterator[memoryview]:
        """All pieces but the last one. Between few files that have content, some are longer than `_PIECE`."""
        done = self._start
        # A copy, since what was added cannot grow while it is looked at.
        data = memoryview(bytes(self._data))
        while self.total - done > _PIECE and (end := self._next_end(done)):
            yield data[done - self._start : end - self._start]
            done = end
        del self._data[: done - self._start]
        self._start = done

    def rest(self) -> Iterator[memoryview]:
        """What is left."""
        yield memoryview(self._data)

    def _next_end(self, done: int) -> int:
        """Where a piece ends that begins at ``done``; 0 if that is not known yet."""
        end = 0
        while self._contents:
            first, last = self._contents[0]
            if last > done:
                if end and first > done + _PIECE:
                    break
                end = max(first, min(last, done + _PIECE))
                if end < last:
                    break  # the next piece may end in it, too
            self._contents.popleft()
        if not end and self.total - done > _LONGEST_PIECE:
            return done + _LONGEST_PIECE
        return end


def _header(name: str, item: Item) -> bytes:
    import tarfile  # 0.25 MiB, which most daemons do without: they are never asked for an export

    member = tarfile.TarInfo(name)
    if item.kind == FILE:
        member.size, member.mode = item.size, FILE_MODE
    elif item.kind == DIRECTORY:
        member.type, member.mode = tarfile.DIRTYPE, DIRECTORY_MODE
    else:
        member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, item.content
    return member.tobuf(tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def _opened(entry: Entry) -> Iterator[tuple[Manifest, int]]:
    """The manifest of an entry, and a descriptor of its tree, which can be read when the entry is made anew.

    Raises:
        Corrupt: its manifest is not what was written.
        Vanished: it is not there any more, or another has its name.
        DiskError: it cannot be read.
    """
    with disk.explained("read the entry", entry.directory):
        directory = os.open(entry.directory, _OPEN_DIRECTORY)
        try:
            disk.check_inode(os.fstat(directory), entry.inode)
            found = manifest.read(directory, entry.record.manifest_sha256)
            tree = os.open("tree", _OPEN_DIRECTORY, dir_fd=directory)
        finally:
            os.close(directory)
    try:
        yield found, tree
    finally:
        os.close(tree)


def _content(entry: Entry, tree: int, name: str, item: Item) -> Iterator[bytes]:
    """The content of a file in pieces, exactly as many bytes as the manifest says.

    Raises:
        Corrupt: it is not there, or not what was extracted; known at the latest after the last piece.
        DiskError: it cannot be read.
    """
    path = entry.path / name
    digest = hashlib.sha256()
    left = item.size
    try:
        with files.opened(name, directory=tree, follow=False) as (descriptor, status):
            if status.st_size != item.size:
                raise _corrupt(path, f"has {status.st_size} bytes instead of {item.size}")
            for piece in files.read_pieces(descriptor, item.size):
                left -= len(piece)
                digest.update(piece)
                yield piece
    except (FileNotFoundError, NotADirectoryError, files.UnfitFile) as error:
        raise _corrupt(path, "is missing, or no file any more") from error
    except OSError as error:
        raise disk.DiskError(f"cannot read {path}: {error.strerror}") from error
    if left or digest.hexdigest() != item.content:
        raise _corrupt(path, "has another content")


def _corrupt(path: Path, what: str) -> Corrupt:
    return Corrupt(f"{quoted(str(path))} {what}: it is not what was extracted")
