# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recipe of precompiled headers for bcc: libbcc accepts them because its own arguments are the same.

A program uses them with BCC_KERNEL_SOURCE=<entry>/tree in its environment and
``BPF(text=…, cflags=[…arguments…])``.

Observed with libbcc 0.26 (LLVM 14), 0.31 (19) and 0.37 (21):

- Libbcc compiles as the front end (``-cc1``) of its LLVM's clang does with the options that it prints, see
  `LibbccCommand`, with the tree as its working directory, followed by the ``cflags`` of the caller.
- Libbcc includes headers of its own before each program. They replace the kernel's <linux/bpf.h>, so they are
  precompiled before the kernel's. The header that is compiled has their text behind line markers, as if they
  were read from files; their include guards then stop libbcc's own ``-include``.
- Libbcc searches for headers by names relative to the tree, and a precompiled header has absolute names. Both
  lead to the same file while it exists. After the headers were dropped, only the absolute names are found:
  ``cflags`` name the directories again with ``-isystem``, which replaces an earlier ``-I`` of the same
  directory. But LLVM 14 keeps the first name of a directory. A remapped file, which no program includes,
  makes the absolute name the first: remapped files are looked up before all others.
- Libbcc walks all declarations several times: a profile with more than a program needs makes it slower.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..cache.pch_files import PREFIX
from ..errors import NotAvailable
from ..system.files import read_file
from .libbcc import LIBBCC
from .libbcc_command import EXTENSIONS, is_macro
from .recipe import FRONT_END, Recipe, as_if_included, key_of, precompile, prefix, umbrella

if TYPE_CHECKING:
    from pathlib import Path

    from .compilers import Compiler
    from .libbcc import InstalledLibbcc
    from .libbcc_command import LibbccCommand
    from .profiles import Profile

_BPF = "include/uapi/linux/bpf.h"
_MAX_BPF = 4 << 20  # bytes; it has 0.3 MB
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)  # also one that is not closed: else quadratic
_DECLARED = re.compile(r"\b(?:struct|union|enum)\s+(\w+)\s*\{|\b(BPF_\w+)", re.ASCII)
_NOWHERE = ".remapped"  # no header is called so


def bcc_recipe(
    profile: Profile,
    compiler: Compiler,
    tree: Path,
    digest: str,
    arch: str,
    command: LibbccCommand,
) -> Recipe:
    """As `clang_recipe`, for a profile of bcc.

    Args:
        command: how libbcc compiles with the flags of the profile.

    Raises:
        NotAvailable: libbcc is of another LLVM than the compiler.
    """
    library = command.library
    _check(command, compiler)
    source = as_if_included(PREFIX, prefix(profile)) + _virtual(command) + umbrella(profile)
    own = ("-resource-dir", str(compiler.resource), "-isystem", str(compiler.resource / "include"))
    flags = (FRONT_END, *command.options, *_macros(profile), *own)
    names = command.directories
    absolute = (
        *(f"-I{tree / name}" for name in names),
        *(item for name in command.first for item in ("-include", str(tree / name))),
    )
    # From its working directory, as libbcc does it.
    relative = (
        *("-working-directory", str(tree)),
        *(f"-I{name}" for name in names),
        *(item for name in command.first for item in ("-include", f"./{name}")),
    )
    first_names = _first_names(tree, names)
    build = precompile((*flags, *absolute))
    text = (*flags, *relative, *(item for item in first_names if item != "-Xclang"))
    cflags = (EXTENSIONS, *first_names, *profile.flags)
    identity = ("libbcc", library.version, str(library.path), library.digest)
    key = key_of(profile, compiler, tree, digest, arch, (source, build, text, identity))
    told = library.digest, library.file
    return Recipe(source, build, text, (), key, cflags, *told)


def _check(command: LibbccCommand, compiler: Compiler) -> None:
    """Raises: NotAvailable: the compiler is not of libbcc's LLVM."""
    if compiler.major != command.major:
        raise NotAvailable(
            f"{command.library} compiles with clang {command.major}, and accepts nothing from "
            f"{compiler.name}; name {command.compiler}, or no compiler"
        )
    if "." in command.llvm and command.llvm != compiler.version:
        raise NotAvailable(
            f"{command.library} compiles with clang {command.llvm}, and accepts nothing from the clang "
            f"{compiler.version} that is installed ({compiler.path}); upgrade the older of the two"
        )


def _macros(profile: Profile) -> tuple[str, ...]:
    """Those of the profile's flags that libbcc is not asked about: it hands them on as they are."""
    return tuple(item for flag in profile.flags if is_macro(flag) for item in (flag[:2], flag[2:]))


def lacking_names(complaints: str, tree: Path, libraries: InstalledLibbcc = LIBBCC) -> tuple[str, list[str]]:
    """Libbcc with its version, and the names in the kernel's <linux/bpf.h> that libbcc's own does not have.

    Blocking, for some milliseconds.

    Args:
        complaints: those of a compiler. Only names in them are returned, sorted.
    """
    library = libraries.installed()
    try:
        theirs = read_file(tree / _BPF, _MAX_BPF).decode(errors="replace")
    except OSError:
        return str(library), []
    own = {name for _, text in library.headers for name in re.findall(r"\w+", text)}
    lacking = _declared(theirs) - own
    return str(library), sorted(lacking.intersection(re.findall(r"\w+", complaints)))


def _declared(text: str) -> set[str]:
    """The names of structures, unions, enumerations, macros and constants in the kernel's <linux/bpf.h>."""
    code = _COMMENT.sub(" ", text)
    return {name for names in _DECLARED.findall(code) for name in names if name}


def _virtual(command: LibbccCommand) -> bytes:
    """Libbcc's own headers, as if they were read from files."""
    texts = dict(command.library.headers)
    return b"".join(as_if_included(name, texts[name].encode()) for name in command.own)


def _first_names(tree: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """What makes clang call the directories by their absolute names."""
    remapped = (
        item
        for name in names
        for item in ("-Xclang", "-remap-file", "-Xclang", f"{tree / name / _NOWHERE};/dev/null")
    )
    return (*remapped, *(item for name in names for item in ("-isystem", str(tree / name))))
