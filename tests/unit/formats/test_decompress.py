"""Decompression: what comes out, what is refused, and what is left behind."""

from __future__ import annotations

import functools
import io
import lzma
import os
import random
import subprocess
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.errors import Corrupt
from kheadersd.formats import compressed, decompress
from kheadersd.formats.compressed import PIECE
from kheadersd.formats.xz_index import xz_size
from tests.support.archives import compress
from tests.support.threads import at_work

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ("xz", "gzip", "zstd")
CONTENT = random.Random(1).randbytes(300_000) + bytes(700_000) + b"the end"


def opener(data: bytes) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(data)


def decompressed(data: bytes, kind: str = "auto") -> bytes:
    return b"".join(decompress.chunks(opener(data), "a.tar", kind))


@functools.cache
def compressed_content(kind: str) -> bytes:
    return compress(CONTENT, kind)


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_content_comes_out_in_small_pieces(kind: str) -> None:
    pieces = list(decompress.chunks(opener(compress(CONTENT, kind)), "a.tar"))
    assert b"".join(pieces) == CONTENT
    assert all(0 < len(piece) <= PIECE for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_concatenated_streams_are_one(kind: str) -> None:
    assert decompressed(compress(b"one ", kind) + compress(b"two", kind)) == b"one two"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("garbage", [b"x", b"garbage behind the end", bytes(512) + b"x"])
def test_garbage_behind_the_end_is_corrupt(kind: str, garbage: bytes) -> None:
    with pytest.raises(Corrupt, match=r"a\.tar is (damaged|cut short)"):
        decompressed(compress(CONTENT, kind) + garbage)


@pytest.mark.parametrize("kind", ["xz", "zstd"])
def test_zeros_of_any_length_behind_the_end_are_corrupt(kind: str) -> None:
    with pytest.raises(Corrupt):
        decompressed(compress(CONTENT, kind) + bytes(511))


@pytest.mark.parametrize("padding", [1, 511, 10_240, 200_000])
def test_zeros_behind_gzip(padding: int) -> None:
    """libarchive fills the last block with them when it writes to its standard output."""
    data = compress(b"one ", "gzip") + compress(b"two", "gzip") + bytes(padding)
    assert decompressed(data) == b"one two"
    with pytest.raises(Corrupt, match="other than zeros"):
        decompressed(data + compress(b"three", "gzip"))


@pytest.mark.parametrize("padding", [4, 512, 200_000])
def test_padding_between_and_behind_xz_streams(padding: int) -> None:
    zeros = bytes(padding)
    data = compress(b"one ", "xz") + zeros + compress(b"two", "xz") + compress(b"", "xz") + zeros
    assert decompressed(data) == b"one two"
    assert xz_size(data) == len(b"one two")


def test_padding_is_not_at_the_beginning() -> None:
    with pytest.raises(Corrupt, match="damaged"):
        decompressed(bytes(4) + compress(CONTENT, "xz"), "xz")


def test_zstd_frames_that_are_to_be_skipped() -> None:
    skipped = b"\x5e\x2a\x4d\x18" + (70_000).to_bytes(4, "little") + bytes(70_000)
    data = compress(b"one ", "zstd") + skipped + compress(b"two", "zstd") + skipped
    assert decompressed(data) == b"one two"
    with pytest.raises(Corrupt, match="cut short"):
        decompressed(data[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_no_more_parts_than_a_file_can_need(kind: str) -> None:
    with pytest.raises(Corrupt, match="50000 parts"):
        decompressed(compress(b"", kind) * 50_001)


def test_blocks_of_zstd_are_counted_too() -> None:
    empty_block = bytes(3)
    with pytest.raises(Corrupt, match="50000 parts"):
        decompressed(b"\x28\xb5\x2f\xfd\0\x58" + empty_block * 60_000)


def test_a_file_that_gives_nothing_for_long_can_be_left() -> None:
    class Endless(io.RawIOBase):
        """An xz stream and its padding, without an end."""

        def read(self, size: int = -1, /) -> bytes:
            head, self.head = self.head[:size], self.head[size:]
            return head or bytes(size)

        head = compress(b"", "xz")

    pieces = decompress.chunks(Endless, "a.tar")  # type: ignore[arg-type]
    assert next(pieces) == b""
    pieces.close()
    assert not at_work()


@pytest.mark.parametrize("kind", KINDS)
def test_every_length_but_the_full_one_is_cut_short(kind: str) -> None:
    data = compress(b"some headers " * 20, kind)
    for length in range(len(data)):
        with pytest.raises(Corrupt):
            decompressed(data[:length], kind)


def test_every_block_of_xz_can_be_the_last_one_there() -> None:
    # Two blocks, as newer kernels' archives have: the same headers, and one index for both.
    data = two_block_xz()
    assert decompressed(data) == CONTENT
    for length in range(0, len(data), 4096):
        with pytest.raises(Corrupt, match="cut short"):
            decompressed(data[:length], "xz")


@functools.cache
def two_block_xz() -> bytes:
    command = ["xz", "--compress", "--stdout", "--block-size=600000"]
    return subprocess.run(command, input=CONTENT, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_damage_is_corrupt_or_harmless(kind: str, data: st.DataObject) -> None:
    good = bytearray(compressed_content(kind))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = decompressed(bytes(good), kind)
    except Corrupt:
        return
    assert found == CONTENT  # such as the time stamp in gzip's header


@pytest.mark.parametrize("kind", KINDS)
@given(noise=st.binary(max_size=200))
def test_noise_behind_the_magic_is_corrupt(kind: str, noise: bytes) -> None:
    magic = {"xz": b"\xfd7zXZ\0", "gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}[kind]
    with pytest.raises(Corrupt):
        decompressed(magic + noise, kind)


def test_xz_that_wants_much_memory_is_refused() -> None:
    data = bytearray(lzma.compress(b"some headers", filters=[{"id": lzma.FILTER_LZMA2, "preset": 0}]))
    # The block header is from 12 to 24: size, flags, filter and its size, dictionary, padding, CRC.
    data[16] = 38  # 2 GiB
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    with pytest.raises(Corrupt, match="Memory usage limit"):
        decompressed(bytes(data))


def with_window(size: int, data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": size}]
    return lzma.compress(data, filters=filters)


def test_a_large_window_is_for_what_is_little(monkeypatch: pytest.MonkeyPatch) -> None:
    little, much = bytes(56 << 20), bytes(60 << 20)
    assert decompressed(with_window(64 << 20, little)) == little  # as "xz -9"
    assert decompressed(with_window(16 << 20, much)) == much
    large = with_window(64 << 20, much)
    for data in large, compress(b"x", "xz") + large:
        with pytest.raises(Corrupt, match="needs too much memory"):
            decompressed(data)
    data = with_window(64 << 20, CONTENT)
    assert decompressed(data) == CONTENT
    monkeypatch.setattr(compressed, "_MAX_OF_WIDE_AND_INPUT", len(CONTENT) + len(data) - 1)
    with pytest.raises(Corrupt, match="needs too much memory"):
        decompressed(data)


def test_a_large_window_of_zstd() -> None:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    little, much = bytes(56 << 20), bytes(60 << 20)
    assert decompressed(compressor.compress(little)) == little
    for whole in True, False:  # the size is in the frame, or is not known when it begins
        stream = compressor.compressobj(size=len(much) if whole else -1)
        with pytest.raises(Corrupt, match="needs too much memory"):
            decompressed(stream.compress(much) + stream.flush())


def test_a_bomb_comes_in_small_pieces() -> None:
    bomb = compress(bytes(200_000_000), "zstd")
    pieces = decompress.chunks(opener(bomb), "a.tar")
    assert len(next(pieces)) <= PIECE
    pieces.close()


def test_nothing_runs_after_close(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.xz"
    file.write_bytes(compress(CONTENT * 4, "xz"))
    descriptors = os.listdir("/proc/self/fd")
    for taken in range(4):
        pieces = decompress.chunks(lambda: file.open("rb"), "a.tar.xz")
        for _ in range(taken):
            next(pieces)
        pieces.close()
        assert not at_work()
        assert os.listdir("/proc/self/fd") == descriptors


def test_a_file_that_cannot_be_opened_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match=r"a\.tar\.xz cannot be read: No such file or directory"):
        list(decompress.chunks(lambda: (tmp_path / "gone").open("rb"), "a.tar.xz"))


def test_a_file_that_cannot_be_read_is_corrupt() -> None:
    memory = Path("/proc/self/mem")  # nothing is mapped at address 0
    with pytest.raises(Corrupt, match="Input/output error"):
        list(decompress.chunks(lambda: memory.open("rb"), "a.tar.xz"))


@pytest.mark.parametrize("kind", [*KINDS, "none"])
def test_whole(kind: str) -> None:
    data = compress(CONTENT, kind)
    assert decompress.whole(io.BytesIO(data), "kheaders.ko", len(CONTENT)) == CONTENT
    with pytest.raises(Corrupt, match=r"kheaders\.ko has more than"):
        decompress.whole(io.BytesIO(data), "kheaders.ko", len(CONTENT) - 1)


def test_whole_reads_no_more_than_it_may_give() -> None:
    data = io.BytesIO(compress(b"a module", "xz") + bytes(1_000_000))
    with pytest.raises(Corrupt, match="has more than 100000 bytes"):
        decompress.whole(data, "kheaders.ko", 100_000)
    assert data.tell() < 300_000


@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_xz_size(content: bytes) -> None:
    assert xz_size(compress(content, "xz")) == len(content)


def test_xz_size_of_two_blocks() -> None:
    assert xz_size(two_block_xz()) == len(CONTENT)


@given(st.binary(max_size=300))
def test_xz_size_of_noise_is_zero(noise: bytes) -> None:
    assert xz_size(noise) == 0
    assert xz_size(noise + b"\0\0YZ") == 0


def test_xz_size_of_what_is_cut_short_is_zero() -> None:
    data = compress(CONTENT, "xz")
    assert not any(xz_size(data[:length]) for length in range(len(data) - 300, len(data)))


def test_an_index_of_an_xz_file_that_claims_much_is_not_read() -> None:
    # As many records as there is room for, with the right checksum.
    index = b"\0" + b"\xff\xff\xff\x7f" + b"\x01" * 4_000_003
    index += zlib.crc32(index).to_bytes(4, "little")
    data = compress(b"x", "xz")[:-12] + index
    footer = (len(index) // 4 - 1).to_bytes(4, "little") + b"\0\x04"
    data += zlib.crc32(footer).to_bytes(4, "little") + footer + b"YZ"
    assert xz_size(data) == 0
