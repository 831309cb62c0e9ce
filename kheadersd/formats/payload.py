# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decompresses the kernel in a kernel image, in pieces.

The kernel's build offers xz, lzma, bzip2, gzip, zstd, lz4 and LZO (init/Kconfig, "Kernel compression mode").
LZO is not supported: Debian has no Python library for it. The kernel is one stream; a few bytes of the image
may follow.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Any

from .compressed import (
    GZIP_MAGIC,
    WIDE_WINDOW,
    XZ_MAGIC,
    ZSTD_MAGIC,
    CompressedInput,
    Gunzip,
    decode,
    decode_zstd,
)
from .file_slice import SliceReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .compressed import Decoder
    from .file_slice import FileSlice

LZ4_BLOCK = 8 * 1024 * 1024
"""What a block of lz4's legacy format holds at most, in bytes (lib/decompress_unlz4.c)."""

# The kernel is compressed with dictionaries of up to 128 MiB (scripts/xz_wrap.sh, scripts/Makefile.lib), of
# which no more is touched than the kernel is large.
_XZ_MEMORY = WIDE_WINDOW + 16 * 1024 * 1024

_XZ_OR_LZMA, _BZIP2, _LZ4, _LZO = (XZ_MAGIC, b"\x5d\0\0"), b"BZh", b"\x02\x21\x4c\x18", b"\x89LZO"
_KNOWN = (*_XZ_OR_LZMA, _BZIP2, GZIP_MAGIC, ZSTD_MAGIC, _LZ4)


class UnknownCompression(Exception):
    """A kernel is compressed in a way that cannot be decompressed here; the message says which."""


def is_compressed(head: bytes) -> bool:
    """Whether data with these first bytes, `MAGIC_SIZE` or more, is a stream that `decompress` knows."""
    return head.startswith(_KNOWN)


def decompress(content: FileSlice) -> Iterator[bytes]:
    """Decompress the one stream that ``content`` begins with, in pieces that may be empty.

    Raises:
        UnknownCompression: it is compressed in another way, or what decompresses it is not installed.
        Corrupt: it is damaged, or cut short where the format lets that be noticed.
    """
    label = f"the compressed kernel in {content.label}"
    source = CompressedInput(SliceReader(content), label, bounds_memory=False)
    if source.head.startswith(_LZ4):
        return _unlz4(content, source)
    if source.head.startswith(ZSTD_MAGIC):
        source.exactly(len(ZSTD_MAGIC))
        return decode_zstd(source)
    return decode(_decoder_for(source.head, content.label), source.read(), source)


def _decoder_for(head: bytes, label: str) -> Decoder:
    if head.startswith(_XZ_OR_LZMA):
        import lzma

        return lzma.LZMADecompressor(lzma.FORMAT_AUTO, memlimit=_XZ_MEMORY)
    if head.startswith(_BZIP2):
        import bz2

        return bz2.BZ2Decompressor()
    if head.startswith(GZIP_MAGIC):
        return Gunzip()
    how = "with LZO, which cannot be read" if head.startswith(_LZO) else "in an unknown way"
    raise UnknownCompression(f"the kernel in {label} is compressed {how}")


def _unlz4(content: FileSlice, source: CompressedInput) -> Iterator[bytes]:
    """Blocks, each behind its size in four bytes, after the magic (lz4_Frame_format.md, "Legacy frame").

    Decoded by liblz4, which systemd needs too; no distribution has a Python library for lz4 in its base.
    """
    library = _liblz4(content)
    block = ctypes.create_string_buffer(LZ4_BLOCK)
    offset = len(_LZ4)
    # The last four bytes are the size of the kernel.
    while offset + 4 < content.size:
        (size,) = struct.unpack("<I", content.at(offset, 4))
        offset += 4
        if size > LZ4_BLOCK + LZ4_BLOCK // 255 + 16 or offset + size > content.size:
            raise source.cut_short()
        made = library.LZ4_decompress_safe(content.at(offset, size), block, size, LZ4_BLOCK)
        if made < 0:
            raise source.damaged("its lz4 data does not decode")
        yield memoryview(block)[:made].tobytes()
        offset += size


def _liblz4(content: FileSlice) -> Any:
    try:
        return ctypes.CDLL("liblz4.so.1")
    except OSError as error:
        reason = f"the kernel in {content.label} is compressed with lz4, and there is no liblz4.so.1"
        raise UnknownCompression(reason) from error
