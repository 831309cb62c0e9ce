"""What runs when a program does: the program, what interprets it if it is a script, and their loaders."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Corrupt, NotAvailable
from ..formats import elf
from ..formats.file_slice import Content
from ..system.files import opened
from ..system.root_owned import trusted_path

_MAX_FIRST_LINE = 256  # bytes; as the kernel reads of a script, BINPRM_BUF_SIZE


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
            with opened(program) as (descriptor, _):
                content = Content(descriptor, str(program))
                first = content.upto(0, _MAX_FIRST_LINE).partition(b"\n")[0]
                words = first[2:].split() if first.startswith(b"#!") else []
                if words:
                    pending.append(checked(Path(os.fsdecode(words[0]))))
                programs[program] = None if words else _loader(content)
        except OSError as error:
            raise NotAvailable(
                f"the compiler's program {program} cannot be read: {error.strerror}"
            ) from error
    return programs


def _loader(program: Content) -> Path | None:
    """The dynamic loader that an ELF program asks for; not all do."""
    try:
        name = elf.interpreter(program)
    except Corrupt:
        return None
    return checked(Path(os.fsdecode(name))) if name else None
