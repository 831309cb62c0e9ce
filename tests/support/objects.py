"""What an object file of BPF says to a loader, in a form that can be compared.

Compared byte by byte: every section but those named below, so code, maps, data and license; every symbol
and every relocation of them. By what they mean: the types in .BTF, and functions and relocations of fields in
.BTF.ext. Clang numbers types in the order in which debug information meets them, which is not the order of
the text when they come from a precompiled header; a loader goes by names, members and offsets. And a type
that the program's own headers only declare may be defined in another of those that were precompiled: so the
types of the one file are to be found in the other, and not the other way round. Left out: DWARF (.debug_*)
and line information, which change nothing for a loader, and the tables of the names of sections and symbols,
which are compared as the names that they are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

_IGNORED = (".debug", ".rel.debug", ".strtab", ".shstrtab", ".BTF", ".rel.BTF")

# Kinds of types that have members or the like behind them, and how many words each; see linux/btf.h.
_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _DECLARED, _PROTO, _VAR, _DATASEC = 1, 3, 4, 5, 6, 7, 13, 14, 15
_DECL_TAG, _ENUM64 = 17, 19
_WORDS = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _PROTO: 2, _DATASEC: 3, _ENUM64: 3}
_WORDS_ONCE = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_SIZED = (_INT, _STRUCT, _UNION, _ENUM, _DATASEC, _ENUM64, 16)


def contents(path: Path) -> dict[str, object]:
    """Section by section, by their names, with the meaning of .BTF.ext."""
    result: dict[str, object] = {}
    with open(path, "rb") as file:
        elf = ELFFile(file)
        names = [section.name for section in elf.iter_sections()]
        for section in elf.iter_sections():
            if not section.name or section.name.startswith(_IGNORED):
                continue
            if isinstance(section, SymbolTableSection):
                result[section.name] = sorted(
                    _symbol(symbol, names)
                    for symbol in section.iter_symbols()
                    if not _of_debug(symbol, names)
                )
            elif isinstance(section, RelocationSection):
                symbols = elf.get_section(section["sh_link"])
                assert isinstance(symbols, SymbolTableSection)
                result[section.name] = [
                    (
                        relocation["r_offset"],
                        relocation["r_info_type"],
                        _symbol(symbols.get_symbol(relocation["r_info_sym"]), names),
                    )
                    for relocation in section.iter_relocations()
                ]
            else:
                result[section.name] = section["sh_type"], section["sh_flags"], section.data()
        btf = _Btf(_data(elf, ".BTF"))
        result[".BTF.ext"] = sorted(btf.extensions(_data(elf, ".BTF.ext")))
    return result


def types(path: Path) -> set[str]:
    """All types that .BTF defines: each with its members, and what it refers to by kind and name."""
    with open(path, "rb") as file:
        return _Btf(_data(ELFFile(file), ".BTF")).defined()


def _data(elf: ELFFile, name: str) -> bytes:
    section = elf.get_section_by_name(name)
    assert section is not None, name
    return section.data()


def _symbol(symbol: Any, names: list[str]) -> tuple[str, ...]:
    kind = symbol["st_info"]
    values = _where(symbol, names), symbol["st_value"], symbol["st_size"], kind["type"], kind["bind"]
    return symbol.name, *map(str, values)


def _of_debug(symbol: Any, names: list[str]) -> bool:
    return _where(symbol, names).startswith(".debug")


def _where(symbol: Any, names: list[str]) -> str:
    index = symbol["st_shndx"]
    return names[index] if isinstance(index, int) else str(index)


class _Btf:
    """The types of .BTF, by their numbers."""

    def __init__(self, data: bytes) -> None:
        _, _, _, header, types_at, types_size, strings_at, strings_size = struct.unpack_from(
            "=HBBIIIII", data
        )
        self._strings = data[header + strings_at :][:strings_size]
        self._types: list[tuple[int, str, int, int, int, tuple[int, ...]]] = [(0, "void", 0, 0, 0, ())]
        at, end = header + types_at, header + types_at + types_size
        while at < end:
            name, information, value = struct.unpack_from("=III", data, at)
            kind, count = information >> 24 & 0x1F, information & 0xFFFF
            words = _WORDS.get(kind, 0) * count + _WORDS_ONCE.get(kind, 0)
            rest = struct.unpack_from(f"={words}I", data, at + 12)
            self._types.append((kind, self._string(name), information >> 31, value, count, rest))
            at += 12 + 4 * words

    def defined(self) -> set[str]:
        kinds = enumerate(type_[0] for type_ in self._types)
        return {self._describe(index) for index, kind in kinds if kind != _DECLARED}

    def extensions(self, data: bytes) -> Iterator[str]:
        """What .BTF.ext says of functions and of the relocations of fields."""
        header = struct.unpack_from("=HBBIIIIIII", data)
        base, (functions_at, functions_size, _, _, fields_at, fields_size) = header[3], header[4:]
        for section, (offset, type_) in _records(data, base + functions_at, functions_size):
            yield f"{self._string(section)}+{offset} {self._describe(type_)}"
        for section, (offset, type_, access, kind) in _records(data, base + fields_at, fields_size):
            field = f"{kind} {self._string(access)} of {self._describe(type_)}"
            yield f"{self._string(section)}+{offset} {field}"

    def _string(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _named(self, index: int) -> str:
        """A type as another one refers to it: down to the first name."""
        kind, name, flag, value, _, rest = self._types[index]
        if kind == _DECLARED:
            return f"{_UNION if flag else _STRUCT}:{name}"
        if name:
            return f"{kind}:{name}"
        if kind in _WORDS:
            return f"{kind}:anonymous:{value if kind in _SIZED else self._named(value)}"
        if kind == _ARRAY:
            return f"{kind}:{self._named(rest[0])}[{rest[2]}]"
        return f"{kind}:{self._named(value)}"

    def _describe(self, index: int) -> str:
        kind, name, flag, value, _, rest = self._types[index]
        of = str(value) if kind in _SIZED or not index else self._named(value)
        return f"{kind} {name!r} {flag} {of}: {'; '.join(self._members(kind, rest))}"

    def _members(self, kind: int, rest: tuple[int, ...]) -> Iterator[str]:
        if kind == _ARRAY:
            yield f"{self._named(rest[0])} {self._named(rest[1])} {rest[2]}"
        elif kind not in _WORDS:
            yield str(rest)
        for at in range(0, len(rest), _WORDS.get(kind, len(rest) + 1)):
            if kind in (_STRUCT, _UNION):
                yield f"{self._string(rest[at])} {self._named(rest[at + 1])} {rest[at + 2]}"
            elif kind == _PROTO:
                yield f"{self._string(rest[at])} {self._named(rest[at + 1])}"
            elif kind == _DATASEC:
                yield f"{self._named(rest[at])} {rest[at + 1 : at + 3]}"
            elif kind in (_ENUM, _ENUM64):
                yield f"{self._string(rest[at])} {rest[at + 1 : at + _WORDS[kind]]}"


def _records(data: bytes, at: int, size: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The name of the section and the words of each record in a part of .BTF.ext."""
    if not size:
        return
    (length,) = struct.unpack_from("=I", data, at)
    end, at = at + size, at + 4
    while at < end:
        section, count = struct.unpack_from("=II", data, at)
        at += 8
        for _ in range(count):
            yield section, struct.unpack_from(f"={length // 4}I", data, at)
            at += length


def has_run_path(program: Path) -> bool:
    """Whether a program says itself where its libraries are."""
    with program.open("rb") as file:
        dynamic = ELFFile(file).get_section_by_name(".dynamic")
        assert isinstance(dynamic, DynamicSection)
        return any(dynamic.iter_tags("DT_RUNPATH"))
