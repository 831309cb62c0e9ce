"""ELF files of either class and byte order, sound and damaged."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.errors import Corrupt
from kheadersd.formats import elf
from kheadersd.formats.file_slice import MemorySlice

KINDS = pytest.mark.parametrize(("bits", "order"), [(32, "<"), (32, ">"), (64, "<"), (64, ">")])


def make(bits: int, order: str, sections: dict[str, bytes], interpreter: bytes = b"") -> bytes:
    """An ELF file with these sections, and a program header that names the interpreter, if there is one."""
    wide = bits == 64
    size, segment_size, section_size = (64, 56, 64) if wide else (52, 32, 40)
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    body, headers, at = interpreter, bytes(section_size), size + segment_size + len(interpreter)
    for name, content in {**sections, ".shstrtab": names}.items():
        name_at = names.index(b"\0" + name.encode() + b"\0") + 1
        layout = "IIQQQQIIQQ" if wide else "IIIIIIIIII"
        headers += struct.pack(order + layout, name_at, 1, 0, 0, at, len(content), 0, 0, 0, 0)
        body += content
        at += len(content)
    count = len(sections) + 2
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    place = (size, at, 0, size, segment_size, int(bool(interpreter)), section_size, count, count - 1)
    start = ident + struct.pack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), 3, 0, 1, 0, *place)
    values = (3, size + segment_size, len(interpreter))
    layout = "I4xQ16xQ16x" if wide else "II8xI12x"
    return start + struct.pack(order + layout, *values) + body + headers


def content(data: bytes) -> MemorySlice:
    return MemorySlice(memoryview(data), "x")


@KINDS
def test_sections(bits: int, order: str) -> None:
    file = content(make(bits, order, {".a": b"first", ".b": b"second"}))
    found = elf.sections(file, (".b", ".c"))
    assert {name: section.at(0, section.size) for name, section in found.items()} == {".b": b"second"}
    assert elf.section(file, 1).at(0, 5) == b"first"
    for index in (0, 9):  # SHT_NULL, and one that is not there
        with pytest.raises(Corrupt, match=f"section {index} is not in the file"):
            elf.section(file, index)


@KINDS
def test_symbols(bits: int, order: str) -> None:
    layout = order + ("I2xHQ8x" if bits == 64 else "II6xH")

    def symbol(name: int, value: int, section: int) -> bytes:
        return struct.pack(layout, *((name, section, value) if bits == 64 else (name, value, section)))

    strings = b"\0start\0started\0"
    table = symbol(0, 0, 0) + symbol(7, 8, 1) + symbol(1, 16, 2)
    file = content(make(bits, order, {".symtab": table, ".strtab": strings}))
    found = elf.sections(file, (".symtab", ".strtab"))
    names = (b"start", b"other")
    assert elf.symbols(file, found[".symtab"], found[".strtab"], names) == {b"start": (16, 2)}


@KINDS
def test_interpreter(bits: int, order: str) -> None:
    assert elf.interpreter(content(make(bits, order, {}, b"/lib/ld.so\0"))) == b"/lib/ld.so"
    assert elf.interpreter(content(make(bits, order, {}))) == b""


def test_counts_are_bounded() -> None:
    table = bytes(24 * 100_001)
    file = content(make(64, "<", {".symtab": table, ".strtab": b"\0"}))
    found = elf.sections(file, (".symtab", ".strtab"))
    with pytest.raises(Corrupt, match="claims to have 100001 symbols"):
        elf.symbols(file, found[".symtab"], found[".strtab"], (b"a",))


@given(data=st.data(), bits=st.sampled_from((32, 64)))
def test_damage_anywhere_is_corrupt_or_harmless(data: st.DataObject, bits: int) -> None:
    file = bytearray(make(bits, "<", {".dynamic": bytes(64), ".dynstr": b"\0a\0"}, b"/lib\0"))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(4, len(file) - 1))] = data.draw(st.integers(0, 255))
    del file[data.draw(st.integers(0, len(file))) :]
    with contextlib.suppress(Corrupt):
        elf.interpreter(content(bytes(file)))
    with contextlib.suppress(Corrupt):
        elf.sections(content(bytes(file)), (".dynstr",))
