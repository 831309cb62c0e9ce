# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompresses files in pieces: xz, gzip, zstd, or not compressed.

Concatenated streams are read as one, as xz, gzip and zstd do, with xz's padding between and behind streams,
zeros behind those of gzip, and the frames that zstd skips. Damaged data, data that is cut short, and any
other data behind the end are `Corrupt`.

A small file can take much work and memory: thousands of empty streams, or a window of gigabytes. So
`CompressedInput` bounds the parts of a file, and the memory that a decoder can touch.
"""

from __future__ import annotations

import io
import queue
import threading
from typing import TYPE_CHECKING, BinaryIO

from ..errors import Corrupt
from .compressed import (
    GZIP_MAGIC,
    INPUT,
    WIDE_WINDOW,
    WINDOW,
    XZ_MAGIC,
    ZSTD_MAGIC,
    CompressedInput,
    Gunzip,
    decode,
    decode_zstd,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

# The reader creates files while the thread makes the next pieces. Smaller pieces cost more switches between
# the two threads; more pieces cost memory, and gain nothing.
_PIECES_AHEAD = 3
_PATIENCE = 0.1  # seconds

_BESIDES_WINDOW = 1024 * 1024  # bytes that liblzma needs besides its window
# The header of a stream and the longest header of a block, which has the size of the window.
_XZ_HEADERS = 12 + 1024

_ZSTD_SKIPPED = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f
_MAGICS = ((XZ_MAGIC, "xz"), (GZIP_MAGIC, "gzip"), (ZSTD_MAGIC, "zstd"))


def chunks(source: Callable[[], BinaryIO], label: str, kind: str = "auto") -> Generator[bytes, None, None]:
    """Decompress a file in a thread of its own, a few pieces ahead of the reader.

    The file is opened when the first piece is asked for. Closing the generator stops and joins the thread and
    closes the file; the thread notices that after at most 64 KiB of input.

    Args:
        source: opens the compressed data; called in the thread.
        label: what messages call the data.
        kind: "xz", "gzip", "zstd", "none", or "auto" to tell by the first bytes.

    Yields:
        Pieces of at most 512 KiB; every 0.1 s an empty one if there is no other, so that the reader can stop.

    Raises:
        Corrupt: the data is damaged, cut short or followed by garbage, or cannot be read.
    """
    ready: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(_PIECES_AHEAD)
    stopped = threading.Event()

    def produce() -> None:
        try:
            with source() as data:
                for piece in _pieces(CompressedInput(data, label), kind):
                    if piece:
                        room.acquire()
                    if stopped.is_set():
                        return
                    if piece:
                        ready.put(piece)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the pieces are read
            ready.put(error)
        else:
            ready.put(None)

    thread = threading.Thread(target=produce, name="decompress")
    thread.start()
    try:
        while True:
            try:
                piece = ready.get(timeout=_PATIENCE)
            except queue.Empty:
                yield b""
                continue
            if piece is None:
                return
            if isinstance(piece, OSError):
                raise _unreadable(label, piece) from piece
            if isinstance(piece, BaseException):
                raise piece
            room.release()
            yield piece
    finally:
        stopped.set()
        room.release()
        thread.join()
        piece = None  # an exception would keep itself alive through this frame


def whole(data: BinaryIO, label: str, limit: int) -> bytes:
    """Decompress a small file into memory; its first bytes tell how it is compressed.

    Args:
        data: the compressed, or plain, file.
        label: what messages call it.
        limit: how many bytes are accepted, compressed or not.

    Raises:
        Corrupt: as `chunks`, or there are more than ``limit`` bytes.
    """
    content = io.BytesIO()
    try:
        for piece in _pieces(CompressedInput(data, label, limit=limit), "auto"):
            if content.tell() + len(piece) > limit:
                raise Corrupt(f"{label} has more than {limit} bytes when decompressed")
            content.write(piece)
    except OSError as error:
        raise _unreadable(label, error) from error
    return content.getvalue()


def _pieces(source: CompressedInput, kind: str) -> Iterator[bytes]:
    """The decompressed pieces of a file; some are empty."""
    if kind == "auto":
        kind = next((name for magic, name in _MAGICS if source.head.startswith(magic)), "none")
    decoders = {"xz": _unxz, "gzip": _gunzip, "zstd": _unzstd}
    return decoders[kind](source) if kind in decoders else iter(source.read, b"")


def _gunzip(source: CompressedInput) -> Iterator[bytes]:
    """Decode gzip members, one behind the other, and zeros behind them, which fill a tape's last block."""
    data = source.read()
    while data or not source.parts:
        source.begin_part()
        data = (yield from decode(Gunzip(), data, source)) or source.read()
        if data[:1] != b"\0":
            continue
        while not data.strip(b"\0") and (data := source.read()):
            yield b""
        if data:
            raise source.damaged("there is something other than zeros behind it")


def _unxz(source: CompressedInput) -> Iterator[bytes]:
    """Decode xz streams, one behind the other, with padding between and behind them."""
    import lzma

    data = source.read()
    while data or not source.parts:
        if source.parts and not data.startswith(XZ_MAGIC[: len(data)]):
            raise source.damaged("there is something other than xz streams and padding in it")
        source.begin_part()
        data += source.up_to(_XZ_HEADERS - len(data)) if len(data) < _XZ_HEADERS else b""
        is_wide = _has_wide_window(data)
        source.is_wide |= is_wide
        window = WIDE_WINDOW if is_wide else WINDOW
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window + _BESIDES_WINDOW)
        data = yield from decode(decoder, data, source)
        padding = 0
        while not data or data[0] == 0:
            yield b""
            data = data or source.read()
            if not data:
                break
            rest = data.lstrip(b"\0")
            padding += len(data) - len(rest)
            data = rest
        if padding % 4:
            raise source.damaged(
                f"{padding} zero bytes follow an xz stream, and its padding is always a multiple of four"
            )


def _has_wide_window(start: bytes) -> bool:
    """Whether the first block of an xz stream needs a larger window than usual, or is damaged."""
    import lzma

    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW + _BESIDES_WINDOW)
        decoder.decompress(start[:_XZ_HEADERS], 1)
    except lzma.LZMAError:
        return True
    return False


def _unzstd(source: CompressedInput) -> Iterator[bytes]:
    """Decode zstd frames, and skip those that are to be skipped (the index of a tool, for example)."""
    magic = source.exactly(len(ZSTD_MAGIC))
    while magic:
        source.begin_part()
        if magic == ZSTD_MAGIC:
            yield from decode_zstd(source)
        elif magic[1:] == _ZSTD_SKIPPED and magic[0] & 0xF0 == 0x50:
            left = int.from_bytes(source.exactly(4), "little")
            while left:
                left -= len(source.exactly(min(left, INPUT)))
                yield b""
        else:
            raise source.damaged("there is something other than zstd frames in it")
        magic = source.up_to(len(ZSTD_MAGIC))


def _unreadable(label: str, error: OSError) -> Corrupt:
    return Corrupt(f"{label} cannot be read: {error.strerror or error}")
