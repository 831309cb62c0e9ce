"""Decompression as a stream of small pieces: xz, gzip, zstd, or nothing to decompress.

Concatenated streams are read as one, as xz, gzip and zstd themselves do, with the padding that xz has between
and behind streams and the frames that zstd skips; anything else behind the end is garbage. What is damaged,
cut short or followed by garbage is `Corrupt`, never silently shorter.

A file can make work without giving anything: thousands of empty streams, or a window of gigabytes. The parts
of a file are counted, and so is the memory that a decoder can touch.
"""

from __future__ import annotations

import io
import queue
import struct
import threading
import zlib
from typing import TYPE_CHECKING, BinaryIO, Protocol

from ..errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

PIECE = 512 * 1024
"""The size of a piece at most, in bytes."""

# The consumer creates files while the next pieces are made. Smaller pieces cost more switches between the two
# threads (256 KiB: 15 % more wall time), more of them only memory.
_PIECES_AHEAD = 3
_INPUT = 64 * 1024
_PATIENCE = 0.1  # seconds

# Streams, frames and blocks of a file. A real one has some hundred; bgzip makes 16,000 of a GiB.
_MAX_PARTS = 50_000

# A decoder touches as much of its window as it has decompressed. "xz -7" has a window of 16 MiB, "xz -9" one
# of 64 MiB and "zstd --ultra -22" one of 128 MiB: such a file can only have little to decompress. All headers
# of Linux 6.1 with their comments have 56 MiB, and 9 MiB compressed, which may be in memory as well.
_WINDOW = 16 * 1024 * 1024
_WIDE_WINDOW = 128 * 1024 * 1024
_MAX_OF_WIDE = 58 * 1024 * 1024
_MAX_OF_WIDE_AND_INPUT = 66 * 1024 * 1024
_BESIDES_WINDOW = 1024 * 1024  # what liblzma needs besides it
# The header of a stream and the longest header of a block, which has the size of the window.
_XZ_HEADERS = 12 + 1024

_XZ = b"\xfd7zXZ\0"
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPED = b"\x2a\x4d\x18"  # behind a byte from 0x50 to 0x5f
_MAGICS = ((_XZ, "xz"), (_GZIP, "gzip"), (_ZSTD, "zstd"))
_MAGIC_SIZE = 6


def chunks(source: Callable[[], BinaryIO], label: str, kind: str = "auto") -> Generator[bytes, None, None]:
    """Decompress in a thread of its own, a few pieces ahead of the reader.

    Nothing is opened before the first piece is asked for. Closing the generator stops and joins the thread
    and closes the file; the thread looks for that after every 64 KiB that it has read.

    Args:
        source: opens the compressed data; called in the thread.
        label: what messages call the data.
        kind: "xz", "gzip", "zstd", "none", or "auto" to tell by the first bytes.

    Yields:
        pieces of at most 512 KiB; an empty one each 0.1 s while there is no other, for the reader to stop.

    Raises:
        Corrupt: the data is damaged, cut short or followed by garbage, or cannot be read.
    """
    ready: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(_PIECES_AHEAD)
    stopped = threading.Event()

    def produce() -> None:
        try:
            with source() as data:
                for piece in _pieces(_Input(data, label), label, kind):
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
        piece = None  # an exception that is kept would keep itself alive through this frame


def whole(data: BinaryIO, label: str, limit: int) -> bytes:
    """Decompress a small file into memory; what kind it is, its first bytes tell.

    Args:
        data: the compressed, or plain, file.
        label: what messages call it.
        limit: how many bytes are accepted, compressed or not.

    Raises:
        Corrupt: as `chunks`, or there are more than ``limit`` bytes.
    """
    content = io.BytesIO()
    try:
        for piece in _pieces(_Input(data, label, limit), label, "auto"):
            if content.tell() + len(piece) > limit:
                raise Corrupt(f"{label} has more than {limit} bytes when decompressed")
            content.write(piece)
    except OSError as error:
        raise _unreadable(label, error) from error
    return content.getvalue()


def xz_size(data: bytes) -> int:
    """The decompressed size of an xz file, as the indexes of its streams claim it; 0 if that cannot be told.

    An index is at the end of its stream (https://tukaani.org/xz/xz-file-format.txt, sections 2.1.2 and 4).
    It is a claim, good for a check in advance: of damaged data it may be anything.
    """
    total = 0
    end = len(data)
    for _ in range(_MAX_STREAMS):
        end = _before_padding(data, end)
        size, end = _stream_size(data, end)
        total += size
        if end == 0:
            return total
        if end < 0:
            break
    return 0


_MAX_STREAMS = 1000
_MAX_INDEX = 4096  # bytes; of two blocks it is 20
_XZ_END = 12  # the footer of a stream, and its header too


def _before_padding(data: bytes, end: int) -> int:
    """The end of the last stream before ``end``."""
    while end > 0 and not data[end - 1]:
        start = max(end - _INPUT, 0)
        end = start + len(data[start:end].rstrip(b"\0"))
    return end


def _stream_size(data: bytes, end: int) -> tuple[int, int]:
    """The decompressed size of the xz stream that ends at ``end``, and where it begins; -1 if it is none."""
    footer = data[max(end - _XZ_END, 0) : end]
    if len(footer) < _XZ_END or footer[-2:] != b"YZ":
        return 0, -1
    (backward,) = struct.unpack_from("<I", footer, 4)
    start = end - _XZ_END - (backward + 1) * 4
    if start < _XZ_END or end - start > _MAX_INDEX:
        return 0, -1
    index = data[start : end - _XZ_END]
    if zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        return 0, -1
    total = 0
    try:
        # The marker of an index is a zero byte.
        records, at = _variable_length(index, 1)
        for _ in range(records):
            unpadded, at = _variable_length(index, at)
            size, at = _variable_length(index, at)
            start -= unpadded + -unpadded % 4
            total += size
    except IndexError:
        return 0, -1
    start -= _XZ_END
    return total, start if start >= 0 and data.startswith(_XZ, start) else -1


def _variable_length(data: bytes, at: int) -> tuple[int, int]:
    """An integer in xz's encoding, seven bits a byte, and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


class _Input:
    """A file whose first bytes were already looked at.

    Attributes:
        count: how many bytes were read.

    Args:
        limit: how many bytes are read at most; None for all that there are.
    """

    def __init__(self, data: BinaryIO, label: str, limit: int | None = None) -> None:
        self._data = data
        self._label = label
        self._limit = limit
        self.count = 0
        self._head = b""
        self.head = self._head = self.up_to(_MAGIC_SIZE)

    def read(self) -> bytes:
        """Some bytes, b"" at the end."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._read(_INPUT)

    def exactly(self, size: int) -> bytes:
        """So many bytes, or `Corrupt`."""
        piece = self.up_to(size)
        if len(piece) < size:
            raise _cut_short(self._label)
        return piece

    def up_to(self, size: int) -> bytes:
        """So many bytes, or as many as there are."""
        piece, self._head = self._head[:size], self._head[size:]
        while len(piece) < size and (more := self._read(size - len(piece))):
            piece += more
        return piece

    def _read(self, size: int) -> bytes:
        piece = self._data.read(size)
        self.count += len(piece)
        if self._limit is not None and self.count > self._limit:
            raise Corrupt(f"{self._label} has more than {self._limit} bytes")
        return piece


def _pieces(source: _Input, label: str, kind: str) -> Iterator[bytes]:
    """What a file has; a piece is empty where some work gave nothing."""
    if kind == "auto":
        kind = next((name for magic, name in _MAGICS if source.head.startswith(magic)), "none")
    if kind == "xz":
        return _unxz(source, label)
    if kind == "gzip":
        return _gunzip(source, label)
    if kind == "zstd":
        return _unzstd(source, label)
    return iter(source.read, b"")


class Decoder(Protocol):
    """What `lzma.LZMADecompressor` looks like."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Gunzip:
    """A decoder of one gzip member."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # A full piece may be full because zlib holds more back, even with all of the input taken.
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        return piece


def _gunzip(source: _Input, label: str) -> Iterator[bytes]:
    """Decode gzip members, one behind the other."""
    parts = _Parts(source, label)
    data = source.read()
    while data or not parts.count:
        parts.add()
        data = (yield from _decode(Gunzip(), data, source, label, parts)) or source.read()


def _unxz(source: _Input, label: str) -> Iterator[bytes]:
    """Decode xz streams, one behind the other, with padding between and behind them."""
    import lzma

    parts = _Parts(source, label)
    data = source.read()
    while data or not parts.count:
        if parts.count and not data.startswith(_XZ[: len(data)]):
            raise Corrupt(f"{label} is damaged: there is something other than xz streams and padding in it")
        parts.add()
        data += source.up_to(_XZ_HEADERS - len(data)) if len(data) < _XZ_HEADERS else b""
        wide = _has_wide_window(data)
        window = _WIDE_WINDOW if wide else _WINDOW
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window + _BESIDES_WINDOW)
        parts.wide |= wide
        data = yield from _decode(decoder, data, source, label, parts)
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
            raise Corrupt(
                f"{label} is damaged: {padding} zero bytes follow an xz stream, and its padding is always a "
                "multiple of four bytes"
            )


def _has_wide_window(start: bytes) -> bool:
    """Whether the first block of an xz stream needs a larger window than usual, or is damaged."""
    import lzma

    try:
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_WINDOW + _BESIDES_WINDOW)
        decoder.decompress(start[:_XZ_HEADERS], 1)
    except lzma.LZMAError:
        return True
    return False


def _decode(
    decoder: Decoder, data: bytes, source: _Input, label: str, parts: _Parts
) -> Generator[bytes, None, bytes]:
    """Decode one stream that begins with ``data``, and return what was read behind its end."""
    import lzma

    while True:
        try:
            piece = decoder.decompress(data, PIECE)
        except (lzma.LZMAError, zlib.error) as error:
            raise _damaged(label, error) from error
        parts.check(len(piece))
        yield piece
        if decoder.eof:
            return decoder.unused_data
        data = b""
        if decoder.needs_input:
            data = source.read()
            if not data:
                raise _cut_short(label)


class _Parts:
    """Bounds the work and the memory that one file takes."""

    def __init__(self, source: _Input, label: str) -> None:
        self._source = source
        self._label = label
        self._bytes = 0
        self.count = 0
        self.wide = False

    def add(self) -> None:
        """A stream, frame or block begins."""
        self.count += 1
        if self.count > _MAX_PARTS:
            raise Corrupt(f"{self._label} has more than {_MAX_PARTS} parts that are compressed one by one")

    def check(self, size: int) -> None:
        """So many bytes were decompressed."""
        self._bytes += size
        together = self._bytes + self._source.count
        if self.wide and (self._bytes > _MAX_OF_WIDE or together > _MAX_OF_WIDE_AND_INPUT):
            raise Corrupt(
                f"{self._label} needs too much memory: its window has more than {_WINDOW} bytes, which is "
                f"accepted for up to {_MAX_OF_WIDE} decompressed bytes, or {_MAX_OF_WIDE_AND_INPUT} with the "
                "compressed ones"
            )


def _unzstd(source: _Input, label: str) -> Iterator[bytes]:
    """Decode zstd frames, block by block, and skip those that are to be skipped (an index of a tool, say).

    The library alone neither bounds the output of one call nor says that a stream was cut short. A block is
    at most 128 KiB of output, so the frames are taken apart here (RFC 8878, sections 3.1.1 and 3.1.2).
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_WIDE_WINDOW)
    parts = _Parts(source, label)
    magic = source.exactly(len(_ZSTD))
    while magic:
        parts.add()
        if magic == _ZSTD:
            decoder = decompressor.decompressobj()
            try:
                for part in _zstd_parts(source, parts):
                    piece = decoder.decompress(part)
                    parts.check(len(piece))
                    yield piece
            except zstandard.ZstdError as error:
                raise _damaged(label, error) from error
        elif magic[1:] == _ZSTD_SKIPPED and magic[0] & 0xF0 == 0x50:
            left = int.from_bytes(source.exactly(4), "little")
            while left:
                left -= len(source.exactly(min(left, _INPUT)))
                yield b""
        else:
            raise Corrupt(f"{label} is damaged: there is something other than zstd frames in it")
        magic = source.up_to(len(_ZSTD))


def _zstd_parts(source: _Input, parts: _Parts) -> Iterator[bytes]:
    """The header of a frame with its first block, every further block, and the checksum."""
    descriptor = source.exactly(1)
    flags = descriptor[0]
    single_segment = flags >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[flags >> 6]
    fields = source.exactly(1 - single_segment + (0, 1, 2, 4)[flags & 3] + content_size)
    if single_segment:
        parts.wide |= int.from_bytes(fields[-content_size:], "little") > _WINDOW
    else:
        exponent, mantissa = divmod(fields[0], 8)
        parts.wide |= (1024 << exponent) * (8 + mantissa) // 8 > _WINDOW
    header = _ZSTD + descriptor + fields
    last = 0
    while not last:
        parts.add()
        block = source.exactly(3)
        bits = int.from_bytes(block, "little")
        last, repeated = bits & 1, bits >> 1 & 3 == 1
        yield header + block + source.exactly(1 if repeated else bits >> 3)
        header = b""
    if flags & 4:
        yield source.exactly(4)


def _damaged(label: str, error: Exception) -> Corrupt:
    return Corrupt(f"{label} is damaged: {str(error).rstrip('.')}")


def _cut_short(label: str) -> Corrupt:
    return Corrupt(f"{label} is cut short: the compressed data ends in the middle")


def _unreadable(label: str, error: OSError) -> Corrupt:
    return Corrupt(f"{label} cannot be read: {error.strerror or error}")
