# SPDX-License-Identifier: LGPL-2.1-or-later
"""The recipe of precompiled headers for bcc: libbcc accepts them because its own arguments are the same.

A program uses them with BCC_KERNEL_SOURCE=<entry>/tree in its environment and
``BPF(text=…, cflags=[…arguments…])``.

Observed with libbcc 0.26 and LLVM 14:

- Libbcc compiles as the clang of its LLVM does with ``--target=<host>``, the options below and the tree as
  its working directory, followed by the ``cflags`` of the caller.
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
from ..sources.build_tree import include_directories
from ..system.files import read_file
from .libbcc import LIBBCC
from .recipe import Recipe, as_if_included, host_triple, key_of, precompile, prefix, umbrella

if TYPE_CHECKING:
    from pathlib import Path

    from .compilers import Compiler
    from .libbcc import InstalledLibbcc, Libbcc
    from .profiles import Profile

# The options of libbcc (frontends/clang/loader.cc, kbuild_helper.cc) by its version. Clang does not notice a
# macro that was not defined in a precompiled header, so unknown versions are refused.
_FLAGS = {
    "0.26": (
        "-O2",
        "-D__BPF_TRACING__",
        "-Wno-deprecated-declarations",
        "-Wno-gnu-variable-sized-type-not-at-end",
        "-Wno-pragma-once-outside-header",
        "-Wno-address-of-packed-member",
        "-Wno-unknown-warning-option",
        "-fno-unwind-tables",
        "-fno-asynchronous-unwind-tables",
        "-g",
        "-gdwarf-4",
        "-D__KERNEL__",
        '-DKBUILD_MODNAME="bcc"',
        "-Wno-unused-value",
        "-Wno-pointer-sign",
        "-fno-stack-protector",
        "-fno-jump-tables",
    ),
}
# Tagged anonymous members, in the kernel's headers since 6.19. Libbcc does not give it by itself.
_EXTENSIONS = "-fms-extensions"
_FIRST = "include/linux/kconfig.h"
_BPF = "include/uapi/linux/bpf.h"
_MAX_BPF = 4 << 20  # bytes; it has 0.3 MB
_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)  # also one that is not closed: else quadratic
_DECLARED = re.compile(r"\b(?:struct|union|enum)\s+(\w+)\s*\{|\b(BPF_\w+)", re.ASCII)
_NOWHERE = ".remapped"  # no header is called so


def is_supported(library: Libbcc) -> bool:
    """Whether it is known how this version compiles."""
    return library.version in _FLAGS


def bcc_recipe(
    profile: Profile,
    compiler: Compiler,
    tree: Path,
    digest: str,
    arch: str,
    libraries: InstalledLibbcc = LIBBCC,
) -> Recipe:
    """As `clang_recipe`, for a profile of bcc. Blocking, for 10 ms at most.

    Raises:
        NotAvailable: libbcc is not installed, is linked to another LLVM than the compiler's, or is of an
            unknown version; or the architecture is not supported.
    """
    library = _libbcc_of(compiler, libraries)
    if not is_supported(library):
        raise NotAvailable(
            f"nothing can be precompiled for libbcc {library.version}: how it compiles is known for "
            f"{', '.join(_FLAGS)}"
        )
    source = as_if_included(PREFIX, prefix(profile)) + _virtual(library) + umbrella(profile)
    flags = (f"--target={host_triple(arch)}", *_FLAGS[library.version], _EXTENSIONS, *profile.flags)
    own = ("-nostdinc", "-isystem", str(compiler.resource / "include"))
    names = include_directories(arch)
    absolute = (*(f"-I{tree / name}" for name in names), "-include", str(tree / _FIRST))
    # From its working directory, as libbcc does it.
    relative = (f"-working-directory={tree}", *(f"-I{name}" for name in names), "-include", f"./{_FIRST}")
    cflags = (_EXTENSIONS, *_first_names(tree, names), *profile.flags)
    build = precompile((*flags, *own, *absolute))
    text = (*flags, "-emit-llvm", *own, *relative, *cflags)
    identity = ("libbcc", library.version, str(library.path), library.digest)
    key = key_of(profile, compiler, tree, digest, arch, (source, build, text, identity))
    return Recipe(source, build, text, (), key, cflags=cflags, library=library.digest)


def _libbcc_of(compiler: Compiler, libraries: InstalledLibbcc) -> Libbcc:
    """The libbcc that is installed, if it is linked to the LLVM of a compiler.

    Raises:
        NotAvailable: it is not, or there is none.
    """
    library = libraries.installed()
    if library.llvm != compiler.major:
        raise NotAvailable(
            f"libbcc {library.version} compiles with clang {library.llvm}, and accepts nothing from "
            f"{compiler.name}; name clang-{library.llvm}, or no compiler"
        )
    return library


def lacking_names(complaints: str, tree: Path, libraries: InstalledLibbcc = LIBBCC) -> tuple[str, list[str]]:
    """The version of libbcc, and the names in the kernel's <linux/bpf.h> that libbcc's own does not have.

    Blocking, for some milliseconds.

    Args:
        complaints: those of a compiler. Only names in them are returned, sorted.
    """
    library = libraries.installed()
    try:
        theirs = read_file(tree / _BPF, _MAX_BPF).decode(errors="replace")
    except OSError:
        return library.version, []
    own = {name for _, text in library.headers for name in re.findall(r"\w+", text)}
    lacking = _declared(theirs) - own
    return library.version, sorted(lacking.intersection(re.findall(r"\w+", complaints)))


def _declared(text: str) -> set[str]:
    """The names of structures, unions, enumerations, macros and constants in the kernel's <linux/bpf.h>."""
    code = _COMMENT.sub(" ", text)
    return {name for names in _DECLARED.findall(code) for name in names if name}


def _virtual(library: Libbcc) -> bytes:
    """Libbcc's own headers, as if they were read from files."""
    return b"".join(as_if_included(name, text.encode()) for name, text in library.headers)


def _first_names(tree: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """What makes clang call the directories by their absolute names."""
    remapped = (
        item
        for name in names
        for item in ("-Xclang", "-remap-file", "-Xclang", f"{tree / name / _NOWHERE};/dev/null")
    )
    return (*remapped, *(item for name in names for item in ("-isystem", str(tree / name))))
