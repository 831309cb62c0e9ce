# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed data with bounds, and one compressed stream at a time: what `decompress` and `payload` share."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol

from ..errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

PIECE = 512 * 1024
"""The size of a piece at most, in bytes."""

INPUT = 64 * 1024
"""How many bytes are read at a time."""

WINDOW = 16 * 1024 * 1024
WIDE_WINDOW = 128 * 1024 * 1024
"""Bytes of what a decoder remembers: usually, and at most."""

XZ_MAGIC = b"\xfd7zXZ\0"
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
MAGIC_SIZE = 6
"""Bytes by which a compression is known, of the longest."""

# Streams, frames and blocks of a file. A real one has some hundred; bgzip makes 16,000 of a GiB.
_MAX_PARTS = 50_000

# A decoder touches as much of its window as it has decompressed. "xz -7" has a window of 16 MiB, "xz -9" one
# of 64 MiB and "zstd --ultra -22" one of 128 MiB: such a file can only have little to decompress. All headers
# of Linux 6.1 with their comments have 56 MiB, and 9 MiB compressed, which may be in memory as well.
_MAX_OF_WIDE = 58 * 1024 * 1024
_MAX_OF_WIDE_AND_INPUT = 66 * 1024 * 1024


class Readable(Protocol):
    """What `CompressedInput` needs of a file."""

    def read(self, size: int, /) -> bytes | None:
        """At most ``size`` bytes; none at the end."""


class CompressedInput:
    """A compressed file, read from its beginning, with bounds on the work and the memory that it takes.

    Attributes:
        head: its first bytes, up to `MAGIC_SIZE`.
        parts: how many streams, frames and blocks of it were begun.
        is_wide: whether a window is larger than `WINDOW`.

    Args:
        label: what messages call it.
        limit: how many bytes are read at most; None for all that there are.
        bounds_memory: whether little may be decompressed with a wide window.
    """

    def __init__(
        self, data: Readable, label: str, *, limit: int | None = None, bounds_memory: bool = True
    ) -> None:
        self._data = data
        self._label = label
        self._limit = limit
        self._bounds_memory = bounds_memory
        self._taken = 0
        self._decoded = 0
        self._head = b""
        self.parts = 0
        self.is_wide = False
        self.head = self._head = self.up_to(MAGIC_SIZE)

    def read(self) -> bytes:
        """Some bytes, b"" at the end."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return self._read(INPUT)

    def exactly(self, size: int) -> bytes:
        """So many bytes.

        Raises:
            Corrupt: there are not as many.
        """
        piece = self.up_to(size)
        if len(piece) < size:
            raise self.cut_short()
        return piece

    def up_to(self, size: int) -> bytes:
        """So many bytes, or as many as there are."""
        piece, self._head = self._head[:size], self._head[size:]
        while len(piece) < size and (more := self._read(size - len(piece))):
            piece += more
        return piece

    def begin_part(self) -> None:
        """Count a stream, frame or block.

        Raises:
            Corrupt: there are more than in anything real.
        """
        self.parts += 1
        if self.parts > _MAX_PARTS:
            raise Corrupt(f"{self._label} has more than {_MAX_PARTS} parts that are compressed one by one")

    def add_decoded(self, size: int) -> None:
        """Count decompressed bytes.

        Raises:
            Corrupt: the decoder can touch too much memory.
        """
        self._decoded += size
        together = self._decoded + self._taken
        too_many = self._decoded > _MAX_OF_WIDE or together > _MAX_OF_WIDE_AND_INPUT
        if too_many and self.is_wide and self._bounds_memory:
            raise Corrupt(
                f"{self._label} needs too much memory: its window has more than {WINDOW} bytes, which is "
                f"accepted for up to {_MAX_OF_WIDE} decompressed bytes, or {_MAX_OF_WIDE_AND_INPUT} with the "
                "compressed ones"
            )

    def damaged(self, problem: Exception | str) -> Corrupt:
        """The error for damaged data."""
        return Corrupt(f"{self._label} is damaged: {str(problem).rstrip('.')}")

    def cut_short(self) -> Corrupt:
        """The error for data that ends too early."""
        return Corrupt(f"{self._label} is cut short: the compressed data ends in the middle")

    def _read(self, size: int) -> bytes:
        piece = self._data.read(size) or b""
        self._taken += len(piece)
        if self._limit is not None and self._taken > self._limit:
            raise Corrupt(f"{self._label} has more than {self._limit} bytes")
        return piece


class Decoder(Protocol):
    """What `lzma.LZMADecompressor` looks like."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was read."""

    @property
    def needs_input(self) -> bool:
        """Whether `decompress` needs more data."""

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the end of the stream."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes, of ``data`` and of what was held back."""


class Gunzip:
    """A `Decoder` of one gzip member."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was read."""
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the end of the stream."""
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most ``max_length`` bytes, of ``data`` and of what was held back."""
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        # A full piece may be full because zlib holds more back, even with all of the input taken.
        self.needs_input = not self._inner.unconsumed_tail and len(piece) < max_length
        return piece


def decode(decoder: Decoder, data: bytes, source: CompressedInput) -> Generator[bytes, None, bytes]:
    """Decode one stream that begins with ``data``, and return what was read behind its end.

    Raises:
        Corrupt: it is damaged or cut short, or needs too much memory.
    """
    import lzma

    while True:
        try:
            piece = decoder.decompress(data, PIECE)
        except (lzma.LZMAError, zlib.error, OSError) as error:  # bz2 raises OSError
            raise source.damaged(error) from error
        source.add_decoded(len(piece))
        yield piece
        if decoder.eof:
            return decoder.unused_data
        data = b""
        if decoder.needs_input:
            data = source.read()
            if not data:
                raise source.cut_short()


def decode_zstd(source: CompressedInput) -> Iterator[bytes]:
    """Decode one zstd frame whose magic was read already.

    The library alone neither bounds the output of one call, nor says that a frame was cut short, nor stops at
    the end of the first one. A block is at most 128 KiB of output, so the frame is taken apart here.

    Raises:
        Corrupt: it is damaged or cut short, has too many blocks, or needs too much memory.
    """
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=WIDE_WINDOW).decompressobj()
    try:
        for part in _zstd_parts(source):
            piece = decoder.decompress(part)
            source.add_decoded(len(piece))
            yield piece
    except zstandard.ZstdError as error:
        raise source.damaged(error) from error


def _zstd_parts(source: CompressedInput) -> Iterator[bytes]:
    """The header of a frame with its first block, every further block, and the checksum.

    RFC 8878, sections 3.1.1 and 3.1.2.
    """
    descriptor = source.exactly(1)
    flags = descriptor[0]
    single_segment = flags >> 5 & 1
    content_size = (single_segment, 2, 4, 8)[flags >> 6]
    fields = source.exactly(1 - single_segment + (0, 1, 2, 4)[flags & 3] + content_size)
    if single_segment:
        window = int.from_bytes(fields[-content_size:], "little")
    else:
        exponent, mantissa = divmod(fields[0], 8)
        window = (1024 << exponent) * (8 + mantissa) // 8
    source.is_wide |= window > WINDOW
    header = ZSTD_MAGIC + descriptor + fields
    last = 0
    while not last:
        source.begin_part()
        block = source.exactly(3)
        bits = int.from_bytes(block, "little")
        last, repeated = bits & 1, bits >> 1 & 3 == 1
        yield header + block + source.exactly(1 if repeated else bits >> 3)
        header = b""
    if flags & 4:
        yield source.exactly(4)
