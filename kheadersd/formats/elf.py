"""The sections of an ELF file, of which a little is read at a time, with a bound for everything.

`elftools` would serve as well for a sound file, but reads names and counts of any length from a damaged one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ..errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Collection

    from .file_slice import Content

MAGIC = b"\x7fELF"

_HEADER_SIZES = {1: 52, 2: 64}
# A kernel has some 80 sections.
_MAX_NAMES = 1024 * 1024
_MAX_NAME = 64
_WITHOUT_CONTENT = (0, 8)  # SHT_NULL, SHT_NOBITS


def sections(content: Content, wanted: Collection[str]) -> dict[str, Content]:
    """Those of the sections ``wanted`` that are in the file, by name; of several with one name, the first.

    Either class and byte order.

    Raises:
        Corrupt: the headers contradict each other, or one of these sections leads out of the file.
    """
    headers, names_index = _headers(content)
    if names_index >= len(headers):
        raise Corrupt(f"{content.label} is damaged: it has no names of sections")
    _, _, offset, size = headers[names_index]
    if size > _MAX_NAMES:
        raise Corrupt(f"{content.label} is damaged: its names of sections take {size} bytes")
    names = content.at(offset, size)
    found: dict[str, Content] = {}
    for name_at, kind, offset, size in headers:
        name = names[name_at : name_at + _MAX_NAME].partition(b"\0")[0].decode("ascii", "replace")
        if name in wanted and name not in found and kind not in _WITHOUT_CONTENT:
            found[name] = content.part(offset, size)
    return found


def section(content: Content, index: int) -> Content:
    """The section of that number.

    Raises:
        Corrupt: there is none, it has nothing in the file, or it leads out of the file.
    """
    headers, _ = _headers(content)
    _, kind, offset, size = headers[index] if index < len(headers) else (0, 0, 0, 0)
    if kind in _WITHOUT_CONTENT:
        raise Corrupt(f"{content.label} is damaged: the content of its section {index} is not in the file")
    return content.part(offset, size)


def _headers(content: Content) -> tuple[list[tuple[int, int, int, int]], int]:
    """Of all sections (name, type, offset, size), and which of them has the names (elf(5), "Elf64_Ehdr")."""
    ident = content.at(0, 16)
    bits, order = ident[4], {1: "<", 2: ">"}.get(ident[5])
    if not ident.startswith(MAGIC) or bits not in _HEADER_SIZES or order is None:
        raise Corrupt(f"{content.label} is damaged: it is no ELF file of a known kind")
    header = content.at(0, _HEADER_SIZES[bits])
    (table,) = struct.unpack_from(f"{order}{'IQ'[bits - 1]}", header, 32 if bits == 1 else 40)
    entry_size, count, names_index = struct.unpack_from(f"{order}HHH", header, len(header) - 6)
    # Name, type, flags, address, offset, size; flags and address are of no interest.
    entry = struct.Struct(f"{order}II8xII16x" if bits == 1 else f"{order}II16xQQ24x")
    if entry_size != entry.size:
        raise Corrupt(f"{content.label} is damaged: its section headers have {entry_size} bytes")
    # 65,535 of them at most: the extension for more is nothing a kernel needs.
    data = content.at(table, entry_size * count)
    return [entry.unpack_from(data, index * entry_size) for index in range(count)], names_index
