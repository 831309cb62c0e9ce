# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads tar archives from a stream of pieces: ustar, GNU and pax, and refuses ambiguous ones.

The reader knows the format only (POSIX.1-2017, pax, "ustar Interchange Format" and "pax Interchange Format";
GNU tar's manual, "Basic Tar Format"); its caller decides whether a name is safe. Only the present piece of
the archive is in memory, and file data is never copied.

The reader refuses what GNU tar could read in another way: sparse files, attributes for all members, and
attributes that are given twice.
"""

from __future__ import annotations

import itertools
import zlib
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Corrupt
from ..system.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FILE = "file"
DIRECTORY = "directory"
SYMLINK = "symlink"

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)
# A long name, or the attributes of a member: a real one has some hundred bytes.
_MAX_EXTENSION = 64 * 1024
# All of those together: 160 bytes for each of 100,000 members.
_MAX_EXTENSIONS = 16 * 1024 * 1024
# Bytes that may follow the end: pixz has its index there, some 60 bytes a file.
_MAX_BEHIND = 16 * 1024 * 1024

_KINDS = {0: FILE, ord("0"): FILE, ord("5"): DIRECTORY, ord("2"): SYMLINK}
_REFUSED = {
    ord("1"): "a hard link",
    ord("3"): "a character device",
    ord("4"): "a block device",
    ord("6"): "a fifo",
    ord("S"): "a sparse file",
}
_LINK_FLAG = ord("2")
_EXTENSIONS = b"LKxg"
_ATTRIBUTES, _GLOBAL_ATTRIBUTES = b"xg"
# The attributes that say what a member is, and GNU tar's long names by the names of the same attributes.
_PATH, _TARGET, _SIZE = b"path", b"linkpath", b"size"
_LONG = {ord("L"): _PATH, ord("K"): _TARGET}
_UTF_8 = b"ISO-IR 10646 2000 UTF-8"


class Member(NamedTuple):
    """A file, a directory or a symlink of an archive.

    Attributes:
        name: as it is in the archive, any text without NUL.
        kind: `FILE`, `DIRECTORY` or `SYMLINK`; anything else has its own description, such as "a fifo".
        size: of the data, bytes.
        target: what a symlink points at, else "".
        data: the data in pieces, valid until the next member is asked for.
    """

    name: str
    kind: str
    size: int
    target: str
    data: Iterable[memoryview]


class TarReader:
    """One pass over the members of an archive.

    Args:
        pieces: the archive, not compressed, in non-empty pieces of any size.
        label: what messages call the archive.
    """

    def __init__(self, pieces: Iterable[bytes], label: str) -> None:
        self._pieces = iter(pieces)
        self._label = label
        self._piece = b""
        self._view = memoryview(b"")
        self._at = 0
        self._left = 0  # of the present member: data and padding that were not read yet
        self._name = b""  # the present or last member, for messages
        self._described = 0  # bytes in extensions so far

    def __iter__(self) -> Iterator[Member]:
        """Every member in order.

        Raises:
            Corrupt: this is no tar archive, or it is damaged, cut short, ambiguous, or followed by another
                one or by more than 16 MiB. What the pieces raise passes through.
        """
        said: dict[bytes, bytes] = {}
        flags = b""
        while (header := self._header()) != _ZERO_BLOCK:
            flag = header[156]
            name = self._name = _name(header)
            size = self._number(header[124:136])
            if flag in _EXTENSIONS:
                if flag in flags and flag != _GLOBAL_ATTRIBUTES:
                    raise self._corrupt(f"two headers of type {quoted(chr(flag))} for one member")
                flags += header[156:157]
                self._extend(said, flag, size)
                continue
            target = _text(header[157:257]) if flag == _LINK_FLAG else b""
            if said:
                name = self._name = said.get(_PATH, name)
                target = said.get(_TARGET, target)
                if _SIZE in said and self._decimal(said[_SIZE]) != size:
                    raise self._corrupt(f"it has {size} bytes, and {quoted(said[_SIZE])} in its attributes")
            yield self._member(name, flag, size, target)
            self._skip()
            said = {}
            flags = b""
        if flags.strip(b"g"):
            raise self._corrupt("the archive ends where a member was announced")
        self._end()

    def _extend(self, said: dict[bytes, bytes], flag: int, size: int) -> None:
        """Read the data of a header that describes the next member, or all members that follow."""
        if size > _MAX_EXTENSION:
            raise self._corrupt(f"{size} bytes of attributes, more than {_MAX_EXTENSION}")
        self._described += size
        if self._described > _MAX_EXTENSIONS:
            raise self._corrupt(f"more than {_MAX_EXTENSIONS} bytes of attributes in all")
        data = self._take(size + (-size % BLOCK))[:size]
        if flag in _LONG:
            self._say(said, _LONG[flag], data.rstrip(b"\0"))
            return
        for key, value in self._attributes(data):
            if key.startswith(b"GNU."):
                raise self._corrupt(f"a sparse file, or the like ({quoted(key)})")
            if key == b"hdrcharset" and value != _UTF_8:
                raise self._corrupt(f"names in the character set {quoted(value)}, not UTF-8")
            if key not in (_PATH, _TARGET, _SIZE):
                continue
            if flag == _GLOBAL_ATTRIBUTES:
                raise self._corrupt(f"one {quoted(key)} for all members")
            self._say(said, key, value)

    def _say(self, said: dict[bytes, bytes], key: bytes, value: bytes) -> None:
        if key in said:
            raise self._corrupt(f"its {quoted(key)} is given twice")
        if not value or b"\0" in value:
            raise self._corrupt(f"its {quoted(key)} is empty or has a NUL character")
        said[key] = value

    def _member(self, name: bytes, flag: int, size: int, target: bytes) -> Member:
        kind = _KINDS.get(flag) or _REFUSED.get(flag) or f"of the unknown type {quoted(chr(flag))}"
        if size and kind in (DIRECTORY, SYMLINK):
            raise self._corrupt(f"a {kind} with data")
        try:
            text = name.decode()
            points_at = target.decode() if kind == SYMLINK else ""
        except UnicodeDecodeError:
            raise self._corrupt("the name or the target is not UTF-8") from None
        self._left = size + (-size % BLOCK)
        if size <= len(self._piece) - self._at:
            data: Iterable[memoryview] = (self._view[self._at : self._at + size],) if size else ()
        else:
            data = self._data(size)
        return Member(text, kind, size, points_at, data)

    def _data(self, size: int) -> Iterator[memoryview]:
        """The data of a member that is in more than one piece."""
        while size:
            self._available()
            view = self._view[self._at : self._at + size]
            self._at += len(view)
            self._left -= len(view)
            size -= len(view)
            yield view

    def _skip(self) -> None:
        """Go to the end of the present member's data and padding, read or not."""
        end = self._at + self._left
        while end > len(self._piece):
            end -= len(self._piece)
            self._next_piece(b"")
        self._at = end
        self._left = 0

    def _available(self) -> int:
        """How many bytes of the present piece are left, at least one."""
        while self._at >= len(self._piece):
            self._next_piece(b"")
        return len(self._piece) - self._at

    def _next_piece(self, before: bytes) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            where = f" in or behind {quoted(self._name)}" if self._name else ""
            raise Corrupt(f"{self._label} is cut short: the tar archive ends{where}")
        self._piece = before + piece if before else piece
        self._view = memoryview(self._piece)
        self._at = 0

    def _take(self, size: int) -> bytes:
        """The next bytes in one piece, for headers and attributes."""
        while len(self._piece) - self._at < size:
            self._next_piece(self._piece[self._at :])
        start, self._at = self._at, self._at + size
        return self._piece[start : self._at]

    def _header(self) -> bytes:
        header = self._take(BLOCK)
        if header == _ZERO_BLOCK:
            return header
        if header[257:263] != b"ustar\0" and header[257:265] != b"ustar  \0":
            raise self._corrupt(
                "what follows is not a tar header" if self._name else "this is not a tar archive"
            )
        # The sum of all bytes, with those of the checksum itself taken as spaces. The low half of Adler-32 is
        # one plus the sum modulo 65521: C speed, where sum() costs more than all other parsing. 256 bytes
        # cannot reach that, and the rest of a header is nearly always zeros.
        if header.count(0) >= BLOCK // 2:
            total = (zlib.adler32(header[156:], zlib.adler32(header[:148])) & 0xFFFF) - 1
        else:
            total = sum(header[:148]) + sum(header[156:])
        if total + 8 * ord(" ") != self._number(header[148:156]):
            raise self._corrupt("the checksum of the header that follows is wrong")
        return header

    def _number(self, field: bytes) -> int:
        """A number of a header: octal, or GNU's base-256 for what octal has no room for."""
        digits = field.lstrip(b" ").rstrip(b" \0")
        if digits.isdigit() and b"8" not in digits and b"9" not in digits:
            return int(digits, 8)
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        raise self._corrupt(f"{quoted(field)} in a header is not a number")

    def _decimal(self, digits: bytes) -> int:
        if not digits.isdigit() or len(digits) > 20:
            raise self._corrupt(f"{quoted(digits)} in the attributes is not a size")
        return int(digits)

    def _attributes(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """The records of a pax header: "<length> <key>=<value>\\n" each."""
        at = 0
        while at < len(data):
            digits, space, _ = data[at : at + 8].partition(b" ")
            end = at + int(digits) if space and digits.isdigit() else 0
            key, equals, value = data[at + len(digits) + 1 : end - 1].partition(b"=")
            if not equals or end > len(data) or data[end - 1 : end] != b"\n":
                raise self._corrupt("the attributes are damaged")
            if key[:1] <= b" " or b"\0" in key:
                raise self._corrupt(f"the attribute {quoted(key)} has no proper name")
            yield key, value
            at = end

    def _end(self) -> None:
        """Check the second block of zeros, and what follows it.

        GNU tar does not read what follows. Zeros and the index of a tool are accepted there, another archive
        is
        not: its members would be lost.
        """
        if self._take(BLOCK) != _ZERO_BLOCK:
            raise self._corrupt("a lone block of zeros follows it")
        zeros = size = 0
        start = b""
        for piece in itertools.chain((self._piece[self._at :],), self._pieces):
            if not size and piece == bytes(len(piece)):  # lstrip() takes 5 s for a GiB
                zeros += len(piece)
                continue
            rest = piece if size else piece.lstrip(b"\0")
            zeros += len(piece) - len(rest)
            if size < BLOCK:
                start += rest[:BLOCK]
            size += len(rest)
            if size > _MAX_BEHIND:
                raise self._corrupt(f"more than {_MAX_BEHIND} bytes follow the end of the archive")
        if (bytes(zeros % BLOCK) + start)[257:262] == b"ustar":
            raise self._corrupt("another archive follows the end of the archive")

    def _corrupt(self, problem: str) -> Corrupt:
        member = f" at the member {quoted(self._name)}" if self._name else ""
        return Corrupt(f"{self._label} is damaged or unsafe{member}: {problem}")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(header: bytes) -> bytes:
    """The name in a header; GNU's format has other fields where ustar has the prefix."""
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        return _text(header[345:500]) + b"/" + name
    return name
