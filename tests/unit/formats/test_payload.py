"""The compressed kernel in an image, by each compression."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from collections.abc import Callable

import pytest
import zstandard

from kheadersd.errors import Corrupt
from kheadersd.formats.compressed import PIECE
from kheadersd.formats.file_slice import MemorySlice
from kheadersd.formats.payload import UnknownCompression, decompress, is_compressed

KERNEL = random.Random(1).randbytes(400_000) + bytes(2_000_000)


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, lzma.FORMAT_ALONE)


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


COMPRESSIONS: list[Callable[[bytes], bytes]] = [gzip.compress, lzma.compress, _lzma, bz2.compress, _zstd]
EACH = pytest.mark.parametrize("compress", COMPRESSIONS)


def content(data: bytes) -> MemorySlice:
    return MemorySlice(memoryview(data), "/boot/vmlinuz")


@EACH
def test_one_stream_is_read_and_what_follows_is_not(compress: Callable[[bytes], bytes]) -> None:
    data = compress(KERNEL) + b"\x00\x5f\x27\x00" + compress(b"another")
    assert is_compressed(data[:6])
    pieces = list(decompress(content(data)))
    assert b"".join(pieces) == KERNEL
    assert max(map(len, pieces)) <= PIECE


@EACH
def test_a_stream_that_is_cut_short(compress: Callable[[bytes], bytes]) -> None:
    data = compress(KERNEL)
    with pytest.raises(Corrupt, match="the compressed kernel in /boot/vmlinuz is cut short"):
        list(decompress(content(data[:-100_000])))


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, _zstd])
def test_a_damaged_stream(compress: Callable[[bytes], bytes]) -> None:
    data = bytearray(compress(KERNEL))
    for at in range(200_000, 200_100):
        data[at] ^= 0x55
    with pytest.raises(Corrupt, match=r"the compressed kernel in /boot/vmlinuz is (damaged|cut short)"):
        list(decompress(content(bytes(data))))


@pytest.mark.parametrize(("start", "how"), [(b"\x89LZO\x00", "with LZO"), (b"MZ", "in an unknown way")])
def test_another_compression(start: bytes, how: str) -> None:
    assert not is_compressed(start + bytes(10))
    with pytest.raises(UnknownCompression, match=f"the kernel in /boot/vmlinuz is compressed {how}"):
        decompress(content(start + bytes(10)))


def test_a_wide_window_is_taken_for_a_large_kernel() -> None:
    """An archive with such a window is refused: its content may be in memory."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    data = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(70 << 20))
    assert sum(map(len, decompress(content(data)))) == 70 << 20
