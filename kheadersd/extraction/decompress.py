"""Decompression as a stream of small pieces: xz, gzip, zstd, or nothing to decompress.

Concatenated streams are read as one, as xz, gzip and zstd themselves do; anything else behind the end is
garbage. What is damaged, cut short or followed by garbage is `Corrupt`, never silently shorter.
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
# What "xz -9" and "zstd --ultra -22" need is below this; a header that asks for more is an attack.
_MEMORY = 128 * 1024 * 1024

_XZ = b"\xfd7zXZ\0"
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGICS = ((_XZ, "xz"), (_GZIP, "gzip"), (_ZSTD, "zstd"))
_MAGIC_SIZE = 6


def chunks(source: Callable[[], BinaryIO], label: str, kind: str = "auto") -> Generator[bytes, None, None]:
    """Decompress in a thread of its own, a few pieces ahead of the reader.

    Nothing is opened before the first piece is asked for. Closing the generator stops and joins the thread
    and closes the file.

    Args:
        source: opens the compressed data; called in the thread.
        label: what messages call the data.
        kind: "xz", "gzip", "zstd", "none", or "auto" to tell by the first bytes.

    Yields:
        non-empty pieces of at most 512 KiB.

    Raises:
        Corrupt: the data is damaged, cut short or followed by garbage, or cannot be read.
    """
    ready: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(_PIECES_AHEAD)
    stopped = threading.Event()

    def produce() -> None:
        try:
            with source() as data:
                for piece in _pieces(data, label, kind):
                    room.acquire()
                    if stopped.is_set():
                        return
                    ready.put(piece)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the pieces are read
            ready.put(error)
        else:
            ready.put(None)

    thread = threading.Thread(target=produce, name="decompress")
    thread.start()
    try:
        while piece := ready.get():
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
        limit: how many decompressed bytes are accepted.

    Raises:
        Corrupt: as `chunks`, or there are more than ``limit`` bytes.
    """
    content = io.BytesIO()
    try:
        for piece in _pieces(data, label, "auto"):
            if content.tell() + len(piece) > limit:
                raise Corrupt(f"{label} has more than {limit} bytes when decompressed")
            content.write(piece)
    except OSError as error:
        raise _unreadable(label, error) from error
    return content.getvalue()


def xz_size(data: bytes) -> int:
    """The decompressed size of an xz stream, as its index claims it; 0 if that cannot be told.

    The index is at the end of the stream (https://tukaani.org/xz/xz-file-format.txt, sections 2.1.2 and 4).
    It is a claim, good for a check in advance: of damaged data it may be anything.
    """
    if len(data) < 32 or data[-2:] != b"YZ":
        return 0
    (backward,) = struct.unpack_from("<I", data, len(data) - 8)
    start = len(data) - 12 - (backward + 1) * 4
    index = data[max(start, 0) : -12]
    if start < 12 or zlib.crc32(index[:-4]) != int.from_bytes(index[-4:], "little"):
        return 0
    try:
        # The marker of an index is a zero byte.
        records, at = _variable_length(index, 1)
        total = 0
        for _ in range(records):
            _, at = _variable_length(index, at)
            size, at = _variable_length(index, at)
            total += size
    except IndexError:
        return 0
    return total


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
    """A file whose first bytes were already looked at."""

    def __init__(self, data: BinaryIO, label: str) -> None:
        self._data = data
        self._label = label
        self._head = b""
        self.head = self._head = self.up_to(_MAGIC_SIZE)

    def read(self) -> bytes:
        """Some bytes, b"" at the end."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._data.read(_INPUT)

    def exactly(self, size: int) -> bytes:
        """So many bytes, or `Corrupt`."""
        piece = self.up_to(size)
        if len(piece) < size:
            raise _cut_short(self._label)
        return piece

    def up_to(self, size: int) -> bytes:
        """So many bytes, or as many as there are."""
        piece, self._head = self._head[:size], self._head[size:]
        while len(piece) < size and (more := self._data.read(size - len(piece))):
            piece += more
        return piece


def _pieces(data: BinaryIO, label: str, kind: str) -> Iterator[bytes]:
    source = _Input(data, label)
    if kind == "auto":
        kind = next((name for magic, name in _MAGICS if source.head.startswith(magic)), "none")
    if kind == "xz":
        return _inflate(source, label, _xz_decoder)
    if kind == "gzip":
        return _inflate(source, label, Gunzip)
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


def _xz_decoder() -> Decoder:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY)


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


def _inflate(source: _Input, label: str, make: Callable[[], Decoder]) -> Iterator[bytes]:
    """Decode streams one behind the other, to the end of the input."""
    import lzma

    decoder = make()
    data = source.read()
    while True:
        try:
            piece = decoder.decompress(data, PIECE)
        except (lzma.LZMAError, zlib.error) as error:
            raise _damaged(label, error) from error
        if piece:
            yield piece
        data = b""
        if decoder.eof:
            data = decoder.unused_data or source.read()
            if not data:
                return
            decoder = make()
        elif decoder.needs_input:
            data = source.read()
            if not data:
                raise _cut_short(label)


def _unzstd(source: _Input, label: str) -> Iterator[bytes]:
    """Decode zstd frames, block by block.

    The library alone neither bounds the output of one call nor says that a stream was cut short. A block is
    at most 128 KiB of output, so the frames are taken apart here (RFC 8878, section 3.1.1).
    """
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=_MEMORY)
    magic = source.exactly(len(_ZSTD))
    while magic:
        if magic != _ZSTD:
            raise Corrupt(f"{label} is damaged: there is something other than zstd frames in it")
        decoder = decompressor.decompressobj()
        try:
            for part in _zstd_parts(source):
                if piece := decoder.decompress(part):
                    yield piece
        except zstandard.ZstdError as error:
            raise _damaged(label, error) from error
        magic = source.up_to(len(_ZSTD))


def _zstd_parts(source: _Input) -> Iterator[bytes]:
    """The header of a frame with its first block, every further block, and the checksum."""
    descriptor = source.exactly(1)
    flags = descriptor[0]
    single_segment = flags >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[flags >> 6]
    header = _ZSTD + descriptor + source.exactly(1 - single_segment + (0, 1, 2, 4)[flags & 3] + content_size)
    last = 0
    while not last:
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
