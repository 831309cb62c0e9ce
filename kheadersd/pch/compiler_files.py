# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files that run when a program is started: itself, its interpreter if it is a script, their loaders."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Corrupt, NotAvailable
from ..formats import elf
from ..formats.file_slice import FileSlice
from ..system.files import opened
from ..system.root_owned import trusted_path

_MAX_FIRST_LINE = 256  # bytes; as the kernel reads of a script, BINPRM_BUF_SIZE


def checked(path: Path) -> Path:
    """The path, without links, of a file that a compiler or its loader names.

    Raises:
        InvalidArgs: as `trusted_path`.
        NotAvailable: it is no absolute path, or there is no such file.
    """
    if not path.is_absolute() or "\0" in str(path):
        raise NotAvailable(f"a file of the compiler's cannot be found: {str(path)!r} is no absolute path")
    try:
        return trusted_path(path)[0]
    except OSError as error:
        raise NotAvailable(f"a file of the compiler's is not there: {path}: {error.strerror}") from error


def programs_of(*started: Path) -> dict[Path, Path | None]:
    """All programs that run, interpreters of scripts too, and the loader of each that has one. Blocking."""
    programs: dict[Path, Path | None] = {}
    pending = list(map(checked, started))
    while pending:
        program = pending.pop()
        if program in programs:
            continue
        try:
            with opened(program) as (descriptor, _):
                content = FileSlice(descriptor, str(program))
                first = content.up_to(0, _MAX_FIRST_LINE).partition(b"\n")[0]
                words = first[2:].split() if first.startswith(b"#!") else []
                if words:
                    pending.append(checked(Path(os.fsdecode(words[0]))))
                programs[program] = None if words else _loader(content)
        except OSError as error:
            raise NotAvailable(
                f"the compiler's program {program} cannot be read: {error.strerror}"
            ) from error
    return programs


def _loader(program: FileSlice) -> Path | None:
    """The dynamic loader of an ELF program; None if it has none."""
    try:
        name = elf.interpreter(program)
    except Corrupt:
        return None
    return checked(Path(os.fsdecode(name))) if name else None
