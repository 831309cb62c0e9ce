"""Precompiled headers for bcc: as libbcc compiles, so that it takes them unmodified.

With BCC_KERNEL_SOURCE=<entry>/tree in the environment: ``BPF(text=…, cflags=[…arguments…])``.

Facts that this rests on, seen with libbcc 0.26 and LLVM 14:

- Libbcc compiles as the clang of its LLVM does with ``--target=<host>``, the options below and the tree as
  its working directory. What follows in its command line comes from ``cflags``.
- It puts headers of its own before each program. They replace the kernel's <linux/bpf.h>, so they have to be
  precompiled before the kernel's. Their text is in the header that is compiled, behind markers of lines, as
  if they were read from files; libbcc's own ``-include`` of them then stops at their include guards.
- It looks for headers by names relative to the tree, and a precompiled header has absolute ones. Both find
  the same file as long as it is there. When it has gone, only the absolute names are found: ``cflags`` name
  the directories again with ``-isystem``, which takes the place of an earlier ``-I`` of the same directory.
  But LLVM 14 goes on calling it what it heard it called first. The remapped file, which nobody includes,
  makes that the absolute name: such files are looked up before all else.
- It walks all that is declared, several times: a profile with more than a program needs makes it slower.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..cache.pch_files import PREFIX
from ..errors import KheadersError, NotAvailable
from ..sources.build_tree import include_directories
from ..system.files import read_file
from .libbcc import LIBBCC
from .recipe import Recipe, as_if_included, host_triple, key_of, precompile, prefix, umbrella

if TYPE_CHECKING:
    from pathlib import Path

    from .compilers import Compiler
    from .libbcc import InstalledLibbcc, Libbcc
    from .profiles import Profile

# What libbcc (frontends/clang/loader.cc, kbuild_helper.cc) tells its compiler, by the version: a macro that
# the precompiled header lacks is not noticed by clang, so a version that nobody has looked at is refused.
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


def compiler_name() -> str:
    """The compiler that makes what libbcc takes, as "clang-14". Blocking, for 10 ms at most.

    Raises:
        NotAvailable: libbcc is not installed, or cannot be used.
    """
    return f"clang-{LIBBCC.installed().llvm}"


def is_known(digest: str) -> bool:
    """Whether libbcc has this digest and was not touched since it was read; some microseconds."""
    library = LIBBCC.known()
    return library is not None and library.digest == digest


def is_current(digest: str) -> bool:
    """Whether libbcc has this digest. Blocking, for 10 ms at most."""
    try:
        return LIBBCC.installed().digest == digest
    except KheadersError:
        return False


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
    """As `clang_recipe`, for a profile of bcc's. Blocking, for 10 ms at most.

    Raises:
        NotAvailable: libbcc is not installed, or is of another LLVM than the compiler, or of a version that
            is not known here; or the architecture is none of those.
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
    """The version of libbcc, and what the kernel's <linux/bpf.h> has and the one within libbcc lacks.

    Blocking, for some milliseconds.

    Args:
        complaints: of a compiler. Only the names that it mentions are told, sorted.
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
