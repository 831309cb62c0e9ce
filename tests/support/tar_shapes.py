"""Archives that stress the reader, written fast: headers of one form, thousands of them."""

from __future__ import annotations

import lzma
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512
MANY = 99_000


def header(
    name: bytes,
    kind: bytes = b"0",
    size: int | bytes = 0,
    target: bytes = b"",
    magic: bytes = b"ustar\00000",
    prefix: bytes = b"",
    off: int = 0,
) -> bytes:
    """A header.

    Args:
        size: or the twelve bytes of its field.
        off: by how much the checksum is wrong.
    """
    field = b"%011o\0" % size if isinstance(size, int) else size
    start = name[:100].ljust(100, b"\0") + b"0000644\0" + 2 * b"0000000\0" + field + b"%011o\0" % 0
    end = (kind + target[:100].ljust(100, b"\0") + magic).ljust(345 - 156, b"\0") + prefix
    end = end.ljust(BLOCK - 156, b"\0")
    return start + b"%06o\0 " % (sum(start) + 8 * ord(" ") + sum(end) + off) + end


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: str, kind: bytes = b"0", data: bytes = b"", target: str = "") -> bytes:
    """A member; names and targets that do not fit into the header get GNU tar's own before it."""
    before = b""
    for flag, text in ((b"L", name.encode()), (b"K", target.encode())):
        if len(text) > 100:
            before += long_name(text, flag)
    return before + header(name.encode(), kind, len(data), target.encode()) + padded(data)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    """GNU tar's own for a long name, or with "K" for what a link points at."""
    return header(b"././@LongLink", kind, len(name)) + padded(name)


def record(key: bytes, value: bytes) -> bytes:
    """A record of a pax header."""
    length = len(key) + len(value) + 3
    while True:
        text = b"%d %s=%s\n" % (length, key, value)
        if len(text) == length:
            return text
        length = len(text)


def attributes(records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header."""
    return header(b"PaxHeaders/x", kind, len(records)) + padded(records)


def tar(members: Iterable[bytes]) -> Iterator[bytes]:
    """An archive of these members, in pieces."""
    yield from members
    yield bytes(2 * BLOCK)


def xz(pieces: Iterable[bytes], window: int = 1 << 20) -> bytes:
    """``pieces`` compressed."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": window}]
    compressor = lzma.LZMACompressor(filters=filters)
    return b"".join([compressor.compress(piece) for piece in pieces]) + compressor.flush()


def noise(size: int) -> bytes:
    return random.Random(5).randbytes(size)


def long_names() -> bytes:
    return xz(tar(member("/".join([f"{number:06d}" + "x" * 240] * 4)) for number in range(MANY)))


def long_targets() -> bytes:
    return xz(tar(member(f"{number}", b"2", target="./" * 500 + "x") for number in range(MANY)))


def wide_names() -> bytes:
    return xz(tar(member(f"include/{number:06d}{'x' * 150}\U0001f600") for number in range(MANY)))


def deep_names() -> bytes:
    return xz(tar(member("/".join([f"{number:05d}"] * 32)) for number in range(MANY // 30)))


def directories() -> bytes:
    return xz(tar(member(f"include/{number}", b"5") for number in range(MANY)))


def links() -> bytes:
    first = member("include/a.h")
    return xz(tar([first, *(member(f"include/{number}", b"2", target="a.h") for number in range(MANY - 2))]))


def chained_links() -> bytes:
    chain = (member(f"l{number + 1}", b"2", target=f"l{number}") for number in range(MANY - 1))
    return xz(tar([member("l0"), *chain]))


def large_attributes() -> bytes:
    comment = attributes(record(b"comment", b"c" * 60_000))
    return xz(tar(comment + member(f"include/{number}.h") for number in range(1000)))


def files_with_a_large_window() -> bytes:
    content = noise(MANY * 100)
    files = (
        member(f"include/{number:06d}{'y' * 60}", data=content[number * 100 : (number + 1) * 100])
        for number in range(MANY)
    )
    return xz(tar([*files, member("zeros", data=bytes(60 << 20))]), 16 << 20)


def a_huge_window() -> bytes:
    return xz(tar([member("big", data=bytes(100 << 20))]), 64 << 20)


def a_huge_window_and_archive() -> bytes:
    return xz(tar([member("big", data=noise(15 << 20) + bytes(34 << 20))]), 64 << 20)
