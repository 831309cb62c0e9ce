# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sections, symbols and the interpreter of an ELF file of either class and byte order; elf(5).

A little of the file is read at a time, with a bound for everything. pyelftools reads names and counts of any
length from a damaged file.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Collection

    from .file_slice import FileSlice

MAGIC = b"\x7fELF"

_PT_INTERP = 3
_NT_GNU_BUILD_ID = 3
_WITHOUT_CONTENT = (0, 8)  # SHT_NULL, SHT_NOBITS
# A kernel has some 80 sections.
_MAX_NAMES = 1024 * 1024  # bytes
_MAX_NAME = 64
_MAX_PATH = 4096
# The kheaders module has some thirty.
_MAX_SYMBOLS = 100_000


class _Layout(NamedTuple):
    """Where a class of ELF has what.

    Attributes:
        header: the size of the file's header.
        tables: the offsets of the program headers and of the section headers, behind 28 or 32 bytes.
        segment: type, offset and size of a program header.
        section: name, type, offset and size of a section header.
        symbol: name, value and section of a symbol, in the order of ``symbol_fields``.
    """

    header: int
    tables: str
    segment: str
    section: str
    symbol: str
    symbol_fields: tuple[int, int, int]


_LAYOUTS = {
    1: _Layout(52, "28xII", "II8xI12x", "II8xII16x", "II6xH", (0, 1, 2)),
    2: _Layout(64, "32xQQ", "I4xQ16xQ16x", "II16xQQ24x", "I2xHQ8x", (0, 2, 1)),
}


class _Header(NamedTuple):
    """What the header of the file says; of each table its offset, the size of an entry, and their number."""

    layout: _Layout
    order: str
    segments: tuple[int, int, int]
    sections: tuple[int, int, int]
    names_index: int


def sections(content: FileSlice, wanted: Collection[str]) -> dict[str, FileSlice]:
    """Those of the sections ``wanted`` that are in the file, by name; of several with one name, the first.

    Raises:
        Corrupt: the headers contradict each other, or one of these sections leads out of the file.
    """
    header = _header(content)
    headers = _table(content, header.order + header.layout.section, *header.sections)
    if header.names_index >= len(headers):
        raise Corrupt(f"{content.label} is damaged: it has no names of sections")
    _, _, offset, size = headers[header.names_index]
    if size > _MAX_NAMES:
        raise Corrupt(f"{content.label} is damaged: its names of sections take {size} bytes")
    names = content.at(offset, size)
    found: dict[str, FileSlice] = {}
    for name_at, kind, offset, size in headers:
        name = names[name_at : name_at + _MAX_NAME].partition(b"\0")[0].decode("ascii", "replace")
        if name in wanted and name not in found and kind not in _WITHOUT_CONTENT:
            found[name] = content.part(offset, size)
    return found


def section(content: FileSlice, index: int) -> FileSlice:
    """The section of that number.

    Raises:
        Corrupt: there is none, it has nothing in the file, or it leads out of the file.
    """
    header = _header(content)
    headers = _table(content, header.order + header.layout.section, *header.sections)
    _, kind, offset, size = headers[index] if index < len(headers) else (0, 0, 0, 0)
    if kind in _WITHOUT_CONTENT:
        raise Corrupt(f"{content.label} is damaged: the content of its section {index} is not in the file")
    return content.part(offset, size)


def symbols(
    content: FileSlice, table: FileSlice, strings: FileSlice, wanted: Collection[bytes]
) -> dict[bytes, tuple[int, int]]:
    """Of those of the symbols ``wanted`` that are in ``table``, the value and the number of the section.

    Raises:
        Corrupt: there are more symbols than in anything real.
    """
    layout, order, *_ = _header(content)
    entry = struct.Struct(order + layout.symbol)
    count = table.size // entry.size
    if count > _MAX_SYMBOLS:
        raise Corrupt(f"{content.label} claims to have {count} symbols")
    names = strings.up_to(0, _MAX_NAMES)
    name_at, value_at, section_at = layout.symbol_fields
    found = {}
    for symbol in entry.iter_unpack(table.at(0, count * entry.size)):
        for name in wanted:
            if names.startswith(name + b"\0", symbol[name_at]):
                found[name] = symbol[value_at], symbol[section_at]
    return found


def interpreter(content: FileSlice) -> bytes:
    """The path of the dynamic loader that a program asks for; b"" if it asks for none.

    Raises:
        Corrupt: the headers lead out of the file.
    """
    header = _header(content)
    for kind, offset, size in _table(content, header.order + header.layout.segment, *header.segments):
        if kind == _PT_INTERP:
            return content.at(offset, min(size, _MAX_PATH)).partition(b"\0")[0]
    return b""


def build_id_in(notes: bytes) -> str:
    """The GNU build-id in ELF notes of this machine's byte order, in hex; "" if there is none."""
    offset = 0
    while offset + 12 <= len(notes):
        name_size, value_size, kind = struct.unpack_from("=III", notes, offset)
        name_at = offset + 12
        value_at = name_at + (name_size + 3 & ~3)
        if kind == _NT_GNU_BUILD_ID and notes[name_at : name_at + name_size] == b"GNU\0":
            return notes[value_at : value_at + value_size].hex()
        offset = value_at + (value_size + 3 & ~3)
    return ""


def _header(content: FileSlice) -> _Header:
    ident = content.at(0, 16)
    layout, order = _LAYOUTS.get(ident[4]), {1: "<", 2: ">"}.get(ident[5])
    if not ident.startswith(MAGIC) or layout is None or order is None:
        raise Corrupt(f"{content.label} is damaged: it is no ELF file of a known kind")
    header = content.at(0, layout.header)
    segments, sections = struct.unpack_from(order + layout.tables, header)
    *counts, names_index = struct.unpack_from(f"{order}HHHHH", header, len(header) - 10)
    return _Header(layout, order, (segments, *counts[:2]), (sections, *counts[2:]), names_index)


def _table(content: FileSlice, form: str, offset: int, size: int, count: int) -> list[tuple[Any, ...]]:
    """The headers in a table: 65,535 at most, as the extension for more is not read."""
    entry = struct.Struct(form)
    if count and size != entry.size:
        raise Corrupt(f"{content.label} is damaged: its headers have {size} bytes, and not {entry.size}")
    return list(entry.iter_unpack(content.at(offset, entry.size * count)))
