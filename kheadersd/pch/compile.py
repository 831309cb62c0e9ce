"""The runs of a compiler: making a precompiled header, trying it, and finding out what it still needs."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ..cache.entry import HEADERS
from ..errors import CompileFailed, Corrupt, KheadersError, NoSpace, NotAvailable
from ..host.architecture import of_machine
from ..sandbox.command import Command
from ..sandbox.limits import exceeded_limit
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..sources.build_tree import AUTOCONF, Unusable, architecture, configuration
from ..system.printable import printable
from ..system.tasks import in_thread
from .bcc_recipe import bcc_recipe, lacking_names
from .needed_headers import (
    again,
    again_arguments,
    dependencies,
    dependencies_arguments,
    directories,
    included_first,
    read_again,
)
from .profiles import BCC
from .recipe import clang_recipe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..sandbox.command import Finished, Run
    from .compilers import Compiler
    from .profiles import Profile
    from .recipe import Recipe

_FIRST_LINES = 5
_LONGEST_LINE = 1000  # characters; a path in the cache has 200 before the first word
_NO_ROOM = os.strerror(errno.ENOSPC)
# Some thousand names of headers. What is beyond would be missed, and the canary would miss it.
_MOST = 4 << 20


def recipe_for(profile: Profile, compiler: Compiler, entry: Entry) -> Recipe:
    """The recipe for an entry. Blocking, for some microseconds, or milliseconds as `architecture`.

    Raises:
        NotAvailable: it is of an architecture that is not known here, or of a 32-bit kernel.
        Corrupt: it is of no architecture.
    """
    recipe = bcc_recipe if profile.consumer == BCC else clang_recipe
    return recipe(profile, compiler, entry.path, entry.record.digest, _architecture(entry))


def _architecture(entry: Entry) -> str:
    """The kernel's name of it."""
    if entry.record.kind != HEADERS:
        return of_machine(os.uname().machine)  # types say nothing of it themselves
    try:
        return precompilable(entry.path, entry.release)
    except Unusable as unusable:
        raise Corrupt(unusable.message) from None


def precompilable(tree: Path, release: str) -> str:
    """The kernel's name of the architecture of headers that something can be precompiled from.

    Raises:
        NotAvailable: they are of a 32-bit kernel.
        Unusable: as `architecture`.
    """
    if not configuration(tree).is_64bit:
        raise NotAvailable(
            f"{release} is a 32-bit kernel (its autoconf.h does not set CONFIG_64BIT), and programs for BPF "
            "are 64-bit: its headers give them other structures than the kernel has, so nothing is "
            "precompiled from them. GetHeaders serves them"
        )
    return architecture(tree)


async def compile_pch(
    run: Run, made: Recipe, compiler: Compiler, entry: Entry, file: int, seconds: float
) -> None:
    """Compile the headers of a recipe.

    Args:
        file: where the result is written to.
        seconds: that it may take.

    Raises:
        CompileFailed: the compiler did not accept them, or needed too much; with its first lines.
        NotAvailable: the library that programs are compiled with is too old for them.
        NoSpace: there was no room for the result.
        Timeout: it took too long.
    """
    finished = await _run(run, str(compiler.path), made.build, entry, made.source, seconds, stdout=file)
    if _NO_ROOM in finished.stderr:
        raise NoSpace(
            f"the file system of the cache became full while the headers of {entry.release} were compiled: "
            "make room there, or remove cached headers"
        )
    if finished.status or not os.fstat(file).st_size:
        if made.library and (reason := await in_thread(_why_too_old, finished.stderr, entry)):
            raise NotAvailable(reason)
        raise _failed(finished, f"{compiler.path} cannot compile the headers of {entry.release}")


def _why_too_old(complaints: str, entry: Entry) -> str:
    """Why libbcc is too old for the headers that it does not compile; "" if it is for another reason."""
    library, lacking = lacking_names(complaints, entry.path)
    if not lacking:
        return ""
    names = ", ".join(lacking[:_FIRST_LINES])
    return (
        f"libbcc {library} is too old for the kernel {entry.release}: its own bpf.h, which takes the place "
        f"of the kernel's, lacks {names}. Install a newer bcc, or take a profile with fewer headers"
    )


async def compile_canary(run: Run, pch: Pch, entry: Entry, seconds: float) -> None:
    """Compile a program that includes all of a precompiled header.

    Raises:
        CompileFailed: it does not work.
        Timeout: it took too long.
    """
    record = pch.record
    arguments = ("-include-pch", str(pch.path), *record.text, "-w", "-x", "c", "-c", "-o", "/dev/null", "-")
    finished = await _run(run, record.compiler, arguments, entry, record.canary.encode(), seconds)
    if finished.status:
        raise _failed(finished, f"{record.compiler} cannot compile a program with {pch.path}")


async def find_needed(run: Run, pch: Pch, entry: Entry, seconds: float) -> tuple[str, ...]:
    """The names in the tree without which a precompiled header is of no use.

    Raises:
        CompileFailed: the compiler does not tell.
        Timeout: it took too long.
    """
    record = pch.record
    source = record.source.encode()
    told = await _run(run, record.compiler, dependencies_arguments(record.text), entry, source, seconds)
    if told.status:
        raise _failed(told, f"{record.compiler} does not tell what the headers of {entry.release} include")
    names = dependencies(told.stdout, entry.path)
    arguments = again_arguments(record.text, pch.path)
    told = await _run(run, record.compiler, arguments, entry, again(names, entry.path), seconds)
    first = included_first(record.text, entry.path)
    told_by = (AUTOCONF,) if entry.record.kind == HEADERS else ()  # of which architecture they are
    return (*read_again(told.stderr, entry.path), *first, *told_by, *directories(record.text, entry.path))


async def _run(
    run: Run,
    program: str,
    arguments: Sequence[str],
    entry: Entry,
    stdin: bytes,
    seconds: float,
    stdout: int | None = None,
) -> Finished:
    try:
        command = Command([program, *arguments], COMPILE_ENVIRONMENT, seconds, stdin=stdin, max_output=_MOST)
        return await run(command, stdout=stdout)
    except OSError as error:
        raise KheadersError(
            f"cannot run {program} for {entry.release}: {error.strerror}; was it removed?"
        ) from error


def _failed(finished: Finished, what: str) -> CompileFailed:
    lines = [printable(line.strip(), _LONGEST_LINE) for line in finished.stderr.splitlines()]
    lines = [line for line in lines if line]
    # What is wrong comes first, be it behind the names of files that led there.
    errors = [line for line in lines if "error:" in line] or lines
    reason = exceeded_limit(finished) or "; ".join(errors[:_FIRST_LINES]) or f"it gave {finished.status}"
    return CompileFailed(f"{what}: {reason}")
