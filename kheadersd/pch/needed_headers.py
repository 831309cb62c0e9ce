# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of a tree that a precompiled header still needs when the other headers are dropped.

Clang does not look for a header whose content is in a precompiled one. It still reads those without include
guards, each time they are included, and it finds none in a directory that is missing. Two runs of the
compiler tell which they are: the first lists the files that went in, the second includes each of them again
and reports those that it reads.

``text`` below are the complete arguments for a program, without the precompiled header.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.entry import HEADERS
from ..sources.build_tree import AUTOCONF
from .compiler_run import failure
from .recipe import is_front_end

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from .compiler_run import CompilerRun

_FROM_STDIN = ("-x", "c", "-")
# As make wants them: a backslash before a space and before #, two dollars for one.
_DEPENDENCY = re.compile(r"(?:\\[ #]|\$\$|\\(?!\n)|[^\s\\])+")
_ESCAPED = re.compile(r"\\([ #])|\$(\$)")


async def find_needed(run: CompilerRun, pch: Pch, entry: Entry) -> tuple[str, ...]:
    """The names in the tree without which a precompiled header is not usable.

    Raises:
        CompileFailed: the compiler does not tell.
        Timeout: it took too long.
    """
    record = pch.record
    source = record.source.encode()
    listed = await run(record.compiler, dependencies_arguments(record.text), entry, source)
    if listed.status:
        raise failure(listed, f"{record.compiler} does not list what the headers of {entry.release} include")
    names = dependencies(listed.stdout, entry.path)
    program = again(names, entry.path)
    reported = await run(record.compiler, again_arguments(record.text, pch.path), entry, program)
    first = included_first(record.text, entry.path)
    # It tells the architecture of the headers.
    configuration = (AUTOCONF,) if entry.record.kind == HEADERS else ()
    return (
        *read_again(reported.stderr, entry.path),
        *first,
        *configuration,
        *directories(record.text, entry.path),
    )


def dependencies_arguments(text: Sequence[str]) -> tuple[str, ...]:
    """Arguments that list what a program on stdin includes, on stdout."""
    listing = ("-Eonly", "-sys-header-deps", "-w", "-dependency-file", "-") if is_front_end(text) else ("-M",)
    return (*text, *listing, "-MT", "x", *_FROM_STDIN)


def dependencies(output: str, tree: Path) -> tuple[str, ...]:
    """The names in the tree of what was included, of the output of `dependencies_arguments`; sorted."""
    _, _, listed = output.partition(":")
    paths = (_ESCAPED.sub(r"\1\2", match) for match in _DEPENDENCY.findall(listed))
    return _names(paths, tree)


def again(names: Sequence[str], tree: Path) -> bytes:
    """A program that includes each of these once more."""
    return "".join(f'#include "{tree}/{name}"\n' for name in names).encode()


def again_arguments(text: Sequence[str], pch: Path) -> tuple[str, ...]:
    """Arguments that report on stderr which headers of a program on stdin are read.

    The compiler may fail: headers without include guards are often not meant to be included alone.
    """
    limit = ("-sys-header-deps", "-ferror-limit", "0") if is_front_end(text) else ("-ferror-limit=0",)
    return (*text, "-include-pch", str(pch), "-H", "-fsyntax-only", *limit, "-w", *_FROM_STDIN)


def read_again(complaints: str, tree: Path) -> tuple[str, ...]:
    """The names in the tree of the headers that were read; sorted."""
    # One dot is the program itself; what those include in turn is in the program too.
    return _names((line[2:] for line in complaints.splitlines() if line.startswith(". ")), tree)


def directories(text: Sequence[str], tree: Path) -> tuple[str, ...]:
    """The names of the directories of the tree that are searched for headers, in the order of ``text``.

    They have to exist, even if empty. Not every tree has all of them. Blocking, for microseconds.
    """
    searched = [item[2:] for item in text if item.startswith("-I")]
    searched += [path for option, path in itertools.pairwise(text) if option == "-isystem"]
    return tuple(
        dict.fromkeys(
            str(Path(path).relative_to(tree))
            for path in searched
            if Path(path).is_relative_to(tree) and Path(path) != tree and Path(path).is_dir()
        )
    )


def included_first(text: Sequence[str], tree: Path) -> tuple[str, ...]:
    """The names of the headers of the tree that are included before each program.

    Bcc accepts no tree without them. Blocking, for microseconds.
    """
    paths = (str(tree / path) for option, path in itertools.pairwise(text) if option == "-include")
    return tuple(name for name in _names(paths, tree) if (tree / name).is_file())


def _names(paths: Iterable[str], tree: Path) -> tuple[str, ...]:
    names = set()
    for path in paths:
        absolute = os.path.normpath(path)
        if absolute.startswith(f"{tree}/"):
            names.add(absolute[len(str(tree)) + 1 :])
    return tuple(sorted(names))
