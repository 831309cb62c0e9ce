"""What runs when a program does: the program, what interprets it if it is a script, and their loaders."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from ..errors import NotAvailable
from ..system.files import opened
from ..system.root_owned import trusted_path

_PT_INTERP = 3
_LONGEST_NAME = 4096


def checked(path: Path) -> Path:
    """Where a path leads that the compiler or its loader has named, if that is root's alone.

    Raises:
        InvalidArgs: see `trusted_path`.
        NotAvailable: it leads nowhere, or from nowhere.
    """
    if not path.is_absolute() or "\0" in str(path):
        raise NotAvailable(f"a file of the compiler's cannot be found: {str(path)!r} is not a whole path")
    try:
        return trusted_path(path)[0]
    except OSError as error:
        raise NotAvailable(f"a file of the compiler's is not there: {path}: {error.strerror}") from error


def programs_of(*started: Path) -> dict[Path, Path | None]:
    """All programs that run, with those that run scripts, and the loader of each that has one. Blocks."""
    programs: dict[Path, Path | None] = {}
    pending = list(map(checked, started))
    while pending:
        program = pending.pop()
        if program in programs:
            continue
        try:
            with opened(program) as (descriptor, _), open(descriptor, "rb", closefd=False) as file:
                words = first[2:].split() if (first := file.readline(256)).startswith(b"#!") else []
                if words:
                    pending.append(checked(Path(os.fsdecode(words[0]))))
                programs[program] = None if words else _loader(file)
        except OSError as error:
            raise NotAvailable(
                f"the compiler's program {program} cannot be read: {error.strerror}"
            ) from error
    return programs


def _loader(file: BinaryIO) -> Path | None:
    """The dynamic loader that an ELF program of this machine asks for, elf(5); not all do.

    Read here, as pyelftools would stay in the daemon's memory, with 3.5 MiB, for these few bytes.
    """
    file.seek(0)
    start = file.read(64)
    if len(start) < 64 or not start.startswith(b"\x7fELF"):
        return None
    is_64 = start[4] == 2
    end = os.fstat(file.fileno()).st_size
    (table,) = struct.unpack_from("=Q" if is_64 else "=I", start, 32 if is_64 else 28)
    size, count = struct.unpack_from("=HH", start, 54 if is_64 else 42)
    for place in range(table, min(table + count * size, end), size or end):
        file.seek(place)
        header = file.read(56 if is_64 else 32)
        layout = "=I4xQ16xQ" if is_64 else "=II8xI"
        if len(header) < struct.calcsize(layout):
            return None
        kind, offset, length = struct.unpack_from(layout, header)
        if kind == _PT_INTERP and offset < end:
            file.seek(offset)
            name, _, _ = file.read(min(length, _LONGEST_NAME)).partition(b"\0")
            return checked(Path(os.fsdecode(name)))
    return None
