# SPDX-License-Identifier: LGPL-2.1-or-later
"""The index of an xz file (https://tukaani.org/xz/xz-file-format.txt, sections 2.1.2 and 4)."""

from __future__ import annotations

import struct
import zlib

_MAX_STREAMS = 1000
_MAX_INDEX = 4096  # bytes; of two blocks it is 20
_XZ_END = 12  # the footer of a stream, and its header too
_MAGIC = b"\xfd7zXZ\0"
_BLOCK = 64 * 1024


def xz_size(data: bytes) -> int:
    """The decompressed size of an xz file, as the indexes of its streams claim it; 0 if that cannot be told.

    For a check in advance: of damaged data it may be anything.
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


def _before_padding(data: bytes, end: int) -> int:
    """The end of the last stream before ``end``."""
    while end > 0 and not data[end - 1]:
        start = max(end - _BLOCK, 0)
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
    return total, start if start >= 0 and data.startswith(_MAGIC, start) else -1


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
