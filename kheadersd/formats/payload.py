"""The compressed kernel inside of a kernel image, decompressed piece by piece.

Every compression that the kernel's build offers (its init/Kconfig, "Kernel compression mode") but LZO, for
which Debian has no library for Python. A payload is one stream; behind it may be a few bytes of the image's.
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import IO, TYPE_CHECKING, Any, cast

from ..errors import Corrupt
from ..sources.source import NotFound, Reason
from .decompress import Decoder, Gunzip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .file_slice import Content

PIECE = 512 * 1024
"""The size of a piece at most, in bytes; of lz4 it is `LZ4_BLOCK`."""

LZ4_BLOCK = 8 * 1024 * 1024
"""What a block of lz4's legacy format holds at most, in bytes (lib/decompress_unlz4.c)."""

_INPUT = 64 * 1024
# The kernel is compressed with dictionaries of up to 128 MiB (scripts/xz_wrap.sh, scripts/Makefile.lib), of
# which no more is touched than the kernel is large.
_WINDOW = 128 * 1024 * 1024
_XZ_MEMORY = _WINDOW + 16 * 1024 * 1024
# A block has 128 KiB of the kernel if it is not the last one.
_MAX_ZSTD_BLOCKS = 1_000_000

_GZIP, _LZ4, _ZSTD = b"\x1f\x8b", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd"
_LZO = b"\x89LZO"


def is_compressed(head: bytes) -> bool:
    """Whether data with these first bytes, 6 or more, is one of the streams that `decompress` knows."""
    return _decoder_for(head) is not None


def decompress(content: Content) -> Iterator[bytes]:
    """Decompress the one stream that ``content`` begins with.

    Raises:
        NotFound: UNSUPPORTED, there is nothing at hand that decompresses it.
        Corrupt: it is damaged, or cut short where the format lets that be noticed.
    """
    head = content.upto(0, 6)
    decoder = _decoder_for(head)
    if decoder is None:
        how = "with LZO, which cannot be read" if head.startswith(_LZO) else "in an unknown way"
        raise NotFound(Reason.UNSUPPORTED, f"the kernel in {content.label} is compressed {how}")
    return decoder(content)


def _decoder_for(head: bytes) -> Callable[[Content], Iterator[bytes]] | None:
    if head.startswith((b"\xfd7zXZ\0", b"\x5d\0\0")):
        return functools.partial(_inflate, make=_xz)
    if head.startswith(b"BZh"):
        return functools.partial(_inflate, make=_bzip2)
    if head.startswith(_GZIP):
        return functools.partial(_inflate, make=Gunzip)
    return {_LZ4: _unlz4, _ZSTD: _unzstd}.get(head[:4])


def _xz() -> Decoder:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY)


def _bzip2() -> Decoder:
    import bz2

    return bz2.BZ2Decompressor()


class _Reader:
    """Reads from the beginning to the end, as a file does."""

    def __init__(self, content: Content, offset: int = 0) -> None:
        self._content = content
        self.offset = offset

    def read(self, size: int = _INPUT) -> bytes:
        data = self._content.upto(self.offset, size)
        self.offset += len(data)
        return data


def _inflate(content: Content, make: Callable[[], Decoder]) -> Iterator[bytes]:
    import lzma

    decoder, reader = make(), _Reader(content)
    data = reader.read()
    while not decoder.eof:
        try:
            piece = decoder.decompress(data, PIECE)
        # Of bz2 it is OSError; the file is read elsewhere.
        except (lzma.LZMAError, zlib.error, OSError) as error:
            raise _damaged(content, error) from error
        if piece:
            yield piece
        data = b""
        if decoder.needs_input and not decoder.eof:
            data = reader.read()
            if not data:
                raise _cut_short(content)


def _unzstd(content: Content) -> Iterator[bytes]:
    import zstandard

    # The library would take what is behind the frame for another one, and says nothing if its end is missing.
    frame = content.part(0, _end_of_zstd_frame(content))
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    try:
        source = cast("IO[bytes]", _Reader(frame))  # of which only "read" is called
        with decompressor.stream_reader(source, read_size=_INPUT) as stream:
            while piece := stream.read(PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise _damaged(content, error) from error


def _end_of_zstd_frame(content: Content) -> int:
    """How many bytes the frame has that ``content`` begins with (RFC 8878, section 3.1.1)."""
    flags = content.at(4, 1)[0]
    single_segment = flags >> 5 & 1
    offset = 5 + 1 - single_segment + (0, 1, 2, 4)[flags & 3] + (single_segment, 2, 4, 8)[flags >> 6]
    for _ in range(_MAX_ZSTD_BLOCKS):
        block = int.from_bytes(content.at(offset, 3), "little")
        repeated = block >> 1 & 3 == 1
        offset += 3 + (1 if repeated else block >> 3)
        if block & 1:
            return offset + (4 if flags & 4 else 0)
    raise _damaged(content, "its zstd data has too many blocks")


def _unlz4(content: Content) -> Iterator[bytes]:
    """Blocks, each behind its size in four bytes, after the magic (lz4_Frame_format.md, "Legacy frame").

    By liblz4 itself, which systemd needs, too: there is nothing for Python in the base of any distribution.
    """
    import ctypes

    library = _liblz4(content)
    block = ctypes.create_string_buffer(LZ4_BLOCK)
    offset = len(_LZ4)
    # The four bytes at the end are no block, but the size of the kernel.
    while offset + 4 < content.size:
        (size,) = struct.unpack("<I", content.at(offset, 4))
        offset += 4
        if size > LZ4_BLOCK + LZ4_BLOCK // 255 + 16 or offset + size > content.size:
            raise _cut_short(content)
        made = library.LZ4_decompress_safe(content.at(offset, size), block, size, LZ4_BLOCK)
        if made < 0:
            raise _damaged(content, "its lz4 data does not decode")
        yield memoryview(block)[:made].tobytes()
        offset += size


def _liblz4(content: Content) -> Any:
    import ctypes

    try:
        return ctypes.CDLL("liblz4.so.1")
    except OSError as error:
        reason = f"the kernel in {content.label} is compressed with lz4, and there is no liblz4.so.1"
        raise NotFound(Reason.UNSUPPORTED, reason) from error


def _damaged(content: Content, error: Exception | str) -> Corrupt:
    return Corrupt(f"the compressed kernel in {content.label} is damaged: {str(error).rstrip('.')}")


def _cut_short(content: Content) -> Corrupt:
    return Corrupt(f"the compressed kernel in {content.label} is cut short: it ends in the middle")
