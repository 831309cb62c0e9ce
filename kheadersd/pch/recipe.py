# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments with which a precompiled header is compiled and used, and the key of all that it depends on.

Observed with clang 14, 16 and 19:

- Clang reads the header from stdin and writes the result to stdout. With ``-working-directory=/`` and
  ``-fno-pch-timestamp`` the result is the same bytes wherever and whenever it is compiled.
- Clang rejects a precompiled header if target, CPU, language or the value of a macro differ. It accepts it
  with -O1 instead of -O2, with a macro that was not defined before, with a file of the same size and other
  content, and in some distributions with another patch release of itself. So the key covers everything.
- The kernel's headers depend on macros of the host's compiler, such as ``__x86_64__``. With ``--target=bpf``
  and without these macros, types have the wrong size, and clang reports nothing.

A prefix header (``prefix.h``, made of the files in data/prefix) is included before every program: it lets
clang compile headers that were written for the kernel's own compiler and Makefiles. Its text is part of the
precompiled header; for a program that is compiled without one it is a file.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.pch_files import PREFIX
from ..errors import NotAvailable
from ..host.architecture import ARCHITECTURES
from ..sources.build_tree import include_directories
from .profiles import CLANG_BPF, CLANG_HOST, TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..host.architecture import Clang
    from .compilers import Compiler
    from .profiles import Profile

VERSION = 4
"""A part of every key. To be raised when precompiled headers of the same arguments must be made again."""

LIBBPF = Path("/usr/include/bpf")
"""The target of the symlink ``<key>/include/bpf``: libbpf's headers, and nothing else of /usr/include."""

FRONT_END = "-cc1"

_PREFIX_FILES = Path(__file__).parent.parent / "data/prefix"


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """All that a compiler is given.

    Attributes:
        source: the header that is compiled, to be given on stdin.
        build: arguments that write the precompiled header to stdout.
        text: the complete arguments for a program, without the precompiled header.
        backend: for a consumer in two steps the arguments of the second (``clang <backend> prog.bc -o
            prog.o``); else empty.
        key: sha256, 64 hex digits, of everything that the result depends on.
        cflags: the arguments that a program needs instead of ``text``, if its compiler adds the others.
        library: the digest of the library that compiles programs; "" if the compiler itself does.
        library_file: see `Libbcc.file`.
        prefix: the content of `PREFIX`, if ``text`` includes it; else empty.
    """

    source: bytes
    build: tuple[str, ...]
    text: tuple[str, ...]
    backend: tuple[str, ...]
    key: str
    cflags: tuple[str, ...] | None = None
    library: str = ""
    library_file: str = ""
    prefix: bytes = b""

    def arguments(self, pch: Path) -> tuple[str, ...]:
        """The complete arguments for a program: ``clang <arguments> -c prog.c -o prog.o``.

        For bcc they are ``cflags`` of its ``BPF()``.
        """
        return ("-include-pch", str(pch), *(self.text if self.cflags is None else self.cflags))


# LLVM's release notes of Clang 16, "New Compiler Flags".
_FIRST_WITH_CONFIGURATION = 16

_FIRST = ("include/linux/kconfig.h", "include/linux/compiler_types.h")

_LANGUAGE = ("-std=gnu11", "-O2", "-g", "-fshort-wchar", "-fno-strict-aliasing", "-fms-extensions")
# Every kernel with one of the sources accepts v2; a profile that needs more appends -mcpu=v3.
_CPU = "-mcpu=v2"
_CODE = ("-fno-stack-protector", "-fno-jump-tables", "-fno-unwind-tables", "-fno-asynchronous-unwind-tables")
_MACROS = (
    "-D__KERNEL__",
    "-D__BPF_TRACING__",
    # Its wrappers of memcpy() end in assembly and in functions that no program can call.
    "-D__NO_FORTIFY",
    '-DKBUILD_MODNAME="bpf"',
    "-DCC_USING_FENTRY",
)
# Of the kernel's own headers, which kbuild compiles with most warnings off.
_QUIET = (
    "-Wno-unknown-warning-option",
    "-Wno-address-of-packed-member",
    "-Wno-compare-distinct-pointer-types",
    "-Wno-default-const-init-unsafe",
    "-Wno-deprecated-declarations",
    "-Wno-duplicate-decl-specifier",
    "-Wno-gnu",
    "-Wno-ignored-attributes",
    "-Wno-microsoft",
    "-Wno-pointer-sign",
    "-Wno-pragma-once-outside-header",
    "-Wno-tautological-compare",
    # The kernel was configured for its own compiler, which may know attributes that this one does not.
    "-Wno-unknown-attributes",
    "-Wno-unused-value",
)


def clang_recipe(
    profile: Profile,
    compiler: Compiler,
    tree: Path,
    digest: str,
    arch: str,
    beside: Path | None = None,
) -> Recipe:
    """The recipe for a profile whose programs clang compiles; for libbcc's see `bcc_recipe`.

    Args:
        tree: its absolute path for as long as the result is used: ``<entry>/tree``.
        digest: that of the archive or the BTF that the tree was made from.
        arch: the kernel's name of the architecture, such as "x86" and "arm64".
        beside: the directory of the prefix header and of libbpf's headers (``include/bpf``); by default that
            of the precompiled header.

    Raises:
        NotAvailable: the architecture is not supported.
    """
    _clang(arch)
    before = prefix(profile)
    source = as_if_included(PREFIX, before) + umbrella(profile)
    text = (
        *_isolation(compiler),
        *_target(profile, arch),
        *_paths(profile, compiler, tree, arch),
        *_QUIET,
        *profile.flags,
    )
    backend = _backend(profile, arch)
    build = precompile(text)
    key = key_of(profile, compiler, tree, digest, arch, (source, build, text, backend))
    around = _beside(beside or tree.parent / "pch" / key, before)
    return Recipe(source, build, (*text, *around), backend, key, prefix=before)


def prefix(profile: Profile) -> bytes:
    """The prefix header for a profile; empty for types, which need none."""
    if profile.base == TYPES:
        return b""
    names = ("makefile.h", "without_assembly.h") if profile.consumer == CLANG_BPF else ("makefile.h",)
    return b"".join(map(_prefix_file, names))


@functools.cache
def _prefix_file(name: str) -> bytes:
    return (_PREFIX_FILES / name).read_bytes()


def as_if_included(name: str, text: bytes) -> bytes:
    """Text for stdin that the compiler handles as if it had included a file of that name."""
    return b'# 1 "%s" 1\n%s\n# 1 "<stdin>" 2\n' % (name.encode(), text) if text else b""


def umbrella(profile: Profile) -> bytes:
    """A header that includes those of a profile."""
    return "".join(f"#include <{name}>\n" for name in profile.headers).encode()


def precompile(text: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments that precompile a header from stdin to stdout, for programs compiled with ``text``.

    The result has the content of the headers, so that they can be dropped.
    """
    if is_front_end(text):
        step: tuple[str, ...] = ("-fmodules-embed-all-files", "-fno-pch-timestamp", "-emit-pch")
    else:
        embedded = ("-Xclang", "-fmodules-embed-all-files", "-Xclang", "-fno-pch-timestamp")
        step = ("-working-directory=/", *embedded, "-c")
    return (*text, *step, "-x", "c-header", "-o", "-", "-")


def is_front_end(text: Sequence[str]) -> bool:
    """Whether arguments are those of clang's front end, which is named first, and not of its driver."""
    return text[:1] == (FRONT_END,)


def key_of(
    profile: Profile,
    compiler: Compiler,
    tree: Path,
    digest: str,
    arch: str,
    given: tuple[bytes, tuple[str, ...], tuple[str, ...], tuple[str, ...]],
) -> str:
    """The sha256 of everything that a precompiled header depends on.

    Args:
        given: what the compiler is given: the source, and the arguments of each step.
    """
    source, *arguments = given
    everything = {
        "version": VERSION,
        "consumer": profile.consumer,
        "base": profile.base,
        "headers": profile.headers,
        "flags": profile.flags,
        "compiler": [str(compiler.path), compiler.version, compiler.digest, str(compiler.resource)],
        "tree": str(tree),
        "digest": digest,
        "architecture": arch,
        "source": source.decode(),
        "arguments": arguments,
    }
    # JSON marks where each string ends, and escapes what is not ASCII.
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


def _isolation(compiler: Compiler) -> tuple[str, ...]:
    """Arguments that make clang ignore its configuration files, in /etc/clang or beside a link to it.

    The caller's clang may read others, and does not notice a macro that was not defined before. Clang reads
    none by default before version 16.
    """
    return ("--no-default-config",) if compiler.major >= _FIRST_WITH_CONFIGURATION else ()


def _target(profile: Profile, arch: str) -> tuple[str, ...]:
    names = _clang(arch)
    traced = f"-D__TARGET_ARCH_{arch}"
    if profile.base == TYPES:
        return (f"--target={names.bpf}", _CPU, *_LANGUAGE, *_CODE, traced)
    if profile.consumer == CLANG_HOST:
        # Without optimisations for the host: BPF's back end cannot compile all of their results.
        first = (f"--target={names.triple}", "-emit-llvm", "-Xclang", "-disable-llvm-passes", "-fno-pic")
        return (*first, *_LANGUAGE, *_CODE, *_MACROS, traced)
    host = tuple(f"-D{macro}" for macro in (*names.macros, "__linux__"))
    return (f"--target={names.bpf}", _CPU, *_LANGUAGE, *_CODE, *_MACROS, traced, *host)


def _backend(profile: Profile, arch: str) -> tuple[str, ...]:
    if profile.consumer != CLANG_HOST:
        return ()
    return (f"--target={_clang(arch).bpf}", _CPU, "-O2", "-Wno-override-module", "-c", "-x", "ir")


def _paths(profile: Profile, compiler: Compiler, tree: Path, arch: str) -> tuple[str, ...]:
    own = ("-nostdinc", "-isystem", str(compiler.resource / "include"))
    if profile.base == TYPES:
        return (*own, f"-I{tree}")
    # By -I, not -isystem: clang then finds precompiled headers also after they were dropped.
    included = tuple(f"-I{tree / name}" for name in include_directories(arch))
    return (*own, *included, *(item for name in _FIRST for item in ("-include", str(tree / name))))


def host_triple(arch: str) -> str:
    """The target of the host.

    Raises:
        NotAvailable: as `clang_recipe`.
    """
    return _clang(arch).triple


def _clang(arch: str) -> Clang:
    known = ARCHITECTURES.get(arch)
    if known is None or known.clang is None:
        can = ", ".join(name for name, other in ARCHITECTURES.items() if other.clang is not None)
        raise NotAvailable(
            f"headers of the architecture {arch} cannot be precompiled; those that can be are {can}"
        )
    return known.clang


def _beside(directory: Path, before: bytes) -> tuple[str, ...]:
    # Libbpf's headers come last. Both are kept as long as the precompiled header.
    first = ("-include", str(directory / PREFIX)) if before else ()
    return (*first, "-idirafter", str(directory / "include"))
