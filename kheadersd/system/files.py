# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that others made: opened without waiting for a writer or a device, and read up to a limit.

An image, a cache or a configuration can have a FIFO, a device or a file without an end where a regular file
is expected. Every function here blocks for no longer than the disk takes. What it refuses is an `UnfitFile`,
which is an OSError: a caller that can do without the file treats it like one that is missing.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

PSEUDO_FILE = 1 << 16
"""Bytes that are taken of a file of procfs or sysfs with one value in it: a page, which has up to 64 KiB."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PIECE = 1 << 20  # bytes

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symlink",
}


class UnfitFile(OSError):
    """There is something at the path, and it is not what can be read; ``strerror`` says what it is."""


class NotRegular(UnfitFile):
    """It is a directory, a FIFO, a device, a socket, or a link that is not to be followed."""


class TooLarge(UnfitFile):
    """It has more bytes than are taken."""


class NotText(UnfitFile):
    """It has bytes that are not text in the expected encoding."""


def open_regular(
    path: str | os.PathLike[str], *, directory: int | None = None, follow: bool = True
) -> tuple[int, os.stat_result]:
    """Open a regular file for reading: its descriptor, the caller's to close, and its status.

    Files of procfs and sysfs are regular, and their size is often 0 whatever is in them.

    Args:
        directory: the descriptor of the directory that a relative path starts from.
        follow: whether the last component may be a symlink.

    Raises:
        NotRegular: it is something else. A device is not opened, which could set it going.
        OSError: it cannot be opened.
    """
    flags = _FLAGS if follow else _FLAGS | os.O_NOFOLLOW
    _check_regular(path, os.stat(path, dir_fd=directory, follow_symlinks=follow))
    descriptor = os.open(path, flags, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status)  # it may have been replaced since
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status


@contextlib.contextmanager
def opened(
    path: str | os.PathLike[str], *, directory: int | None = None, follow: bool = True
) -> Iterator[tuple[int, os.stat_result]]:
    """As `open_regular`, and close the descriptor at the end."""
    descriptor, status = open_regular(path, directory=directory, follow=follow)
    try:
        yield descriptor, status
    finally:
        os.close(descriptor)


def read_file(
    path: str | os.PathLike[str], limit: int, *, directory: int | None = None, follow: bool = True
) -> bytes:
    """All bytes of a regular file.

    Raises:
        TooLarge: there are more than ``limit``.
        NotRegular, OSError: as `open_regular`.
    """
    with opened(path, directory=directory, follow=follow) as (descriptor, status):
        data = b"" if status.st_size > limit else read_up_to(descriptor, limit + 1)
    if max(status.st_size, len(data)) > limit:
        raise TooLarge(errno.EFBIG, f"it has more than {limit} bytes", os.fspath(path))
    return data


def read_start(path: str | os.PathLike[str], size: int) -> bytes:
    """The first ``size`` bytes of a regular file, fewer where it ends before.

    Raises:
        NotRegular, OSError: as `open_regular`.
    """
    with opened(path) as (descriptor, _):
        return read_up_to(descriptor, size)


def read_text(path: str | os.PathLike[str], limit: int = PSEUDO_FILE, encoding: str = "utf-8") -> str:
    """All of a text file.

    Raises:
        NotText: it is not text in ``encoding``.
        TooLarge, NotRegular, OSError: as `read_file`.
    """
    try:
        return read_file(path, limit).decode(encoding)
    except UnicodeDecodeError as error:
        reason = f"it is not {encoding} text (byte {error.start + 1})"
        raise NotText(errno.EILSEQ, reason, os.fspath(path)) from None


def read_up_to(descriptor: int, size: int) -> bytes:
    """The next ``size`` bytes of a descriptor, fewer where it ends before."""
    return b"".join(read_pieces(descriptor, size))


def read_pieces(descriptor: int, size: int) -> Iterator[bytes]:
    """The next ``size`` bytes of a descriptor, fewer where it ends before, in pieces of at most 1 MiB."""
    while size and (piece := os.read(descriptor, min(size, _PIECE))):
        yield piece
        size -= len(piece)


def sha256(descriptor: int, size: int) -> str:
    """The digest, in hex, of the next ``size`` bytes of a descriptor, or of fewer where it ends before."""
    import hashlib  # 3 ms, which kheadersctl does without

    digest = hashlib.sha256()
    for piece in read_pieces(descriptor, size):
        digest.update(piece)
    return digest.hexdigest()


def _check_regular(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something unknown")
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
        raise NotRegular(code, f"it is {kind} and not a regular file", os.fspath(path))
