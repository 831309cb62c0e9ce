# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry as a tar archive, which is complete only if every file is what was extracted."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
from typing import TYPE_CHECKING

from ..errors import Corrupt
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

_PIECE = 1 << 16
_RECORD = 20 * BLOCK  # what tar(1) writes at a time, and some readers expect
_LOOK_AGAIN = 250  # milliseconds after which a writer that waits for its reader looks whether it is cancelled
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_archive(entry: Entry, pipe: int, cancelled: threading.Event) -> None:
    """Write the archive; blocking, for as long as its reader takes. Ends early if the reader closes its end.

    Raises:
        Corrupt: the entry is not what was extracted.
        Vanished, DiskError: it cannot be read.
        Cancelled: ``cancelled`` was set.
    """
    waiter = select.poll()
    waiter.register(pipe, select.POLLOUT)
    with contextlib.suppress(BrokenPipeError), contextlib.closing(_pieces(entry)) as pieces:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                if cancelled.is_set():
                    raise Cancelled
                try:
                    view = view[os.write(pipe, view) :]
                except BlockingIOError:
                    waiter.poll(_LOOK_AGAIN)


def _pieces(entry: Entry) -> Generator[bytes, None, None]:
    """The archive, whose last piece comes once all of the entry was read and compared."""
    waiting = bytearray()
    total = 0
    with _opened(entry) as (found, tree):
        for name, item in found.entries.items():
            waiting += _header(name, item, entry.record.extracted_at)
            if item.kind == FILE:
                for piece in _content(entry, tree, name, item):
                    waiting += piece
                    if len(waiting) >= _PIECE:
                        total += len(waiting)
                        yield bytes(waiting)
                        waiting.clear()
                waiting += bytes(-item.size % BLOCK)
    waiting += bytes(2 * BLOCK)
    yield bytes(waiting) + bytes(-(total + len(waiting)) % _RECORD)


def _header(name: str, item: Item, made_at: int) -> bytes:
    import tarfile  # 0.25 MiB, which most daemons do without: they are never asked for an export

    member = tarfile.TarInfo(name)
    member.mtime = made_at // 1_000_000
    member.uname = member.gname = "root"
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
