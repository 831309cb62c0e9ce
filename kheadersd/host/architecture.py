# SPDX-License-Identifier: LGPL-2.1-or-later
"""The architectures of kernels, by all their names, and the configuration in an autoconf.h."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_AUTOCONF = 4 * 1024 * 1024
"""Bytes of an autoconf.h; a distribution's has 0.3 MB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Clang:
    """How clang compiles headers of an architecture.

    Attributes:
        triple: the target of a 64-bit host.
        bpf: the target of BPF with the same byte order.
        macros: those of the host's compiler that the headers look at. Address spaces, which newer kernels
            have in pointers, are not BPF's.
    """

    triple: str
    bpf: str
    macros: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture of the kernel.

    Attributes:
        name: the kernel's own name, that of a directory in arch/; <bpf/bpf_tracing.h> has it in
            ``__TARGET_ARCH_<name>``.
        symbols: each of these CONFIG_ symbols is only set for this architecture. User-mode Linux sets some of
            the machine that it runs on too.
        machines: the names that ``uname -m`` prints, of kernels with BPF.
        debian: the names of Debian's ports.
        clang: None if its headers cannot be precompiled.
    """

    name: str
    symbols: tuple[str, ...]
    machines: tuple[str, ...] = ()
    debian: tuple[str, ...] = ()
    clang: Clang | None = None


_X86 = Clang(
    "x86_64-linux-gnu",
    "bpfel",
    ("__x86_64__", "__x86_64", "__amd64__", "__amd64", "__seg_fs=", "__seg_gs="),
)
_ARM64 = Clang("aarch64-linux-gnu", "bpfel", ("__aarch64__", "__AARCH64EL__", "__ARM_64BIT_STATE"))

ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("alpha", ("ALPHA",), debian=("alpha",)),
        Architecture("arc", ("ARC",)),
        Architecture("arm", ("ARM",), ("armv6l", "armv7l"), ("armel", "armhf")),
        Architecture("arm64", ("ARM64",), ("aarch64",), ("arm64",), _ARM64),
        Architecture("csky", ("CSKY",)),
        Architecture("hexagon", ("HEXAGON",)),
        Architecture("ia64", ("IA64",)),
        Architecture("loongarch", ("LOONGARCH",), ("loongarch64",), ("loong64",)),
        Architecture("m68k", ("M68K",), debian=("m68k",)),
        Architecture("microblaze", ("MICROBLAZE",)),
        Architecture("mips", ("MIPS",), ("mips64",), ("mips64el", "mipsel")),
        Architecture("nios2", ("NIOS2",)),
        Architecture("openrisc", ("OPENRISC",)),
        Architecture("parisc", ("PARISC",), debian=("hppa",)),
        Architecture("powerpc", ("PPC",), ("ppc64le", "ppc64"), ("powerpc", "ppc64", "ppc64el")),
        Architecture("riscv", ("RISCV",), ("riscv64",), ("riscv64",)),
        Architecture("s390", ("S390",), ("s390x",), ("s390x",)),
        Architecture("sh", ("SUPERH",), debian=("sh4",)),
        Architecture("sparc", ("SPARC",), debian=("sparc64",)),
        Architecture("um", ("UML",)),
        Architecture("x86", ("X86", "X86_64", "X86_32"), ("x86_64", "i686"), ("amd64", "i386", "x32"), _X86),
        Architecture("xtensa", ("XTENSA",)),
    )
}
"""By the kernel's own name: those of arch/*/Kconfig in Linux 5.2 and later."""

_BY_MACHINE = {machine: known.name for known in ARCHITECTURES.values() for machine in known.machines}
_BY_DEBIAN = {port: known.name for known in ARCHITECTURES.values() for port in known.debian}

# Each takes time in proportion to the text, as other threads wait meanwhile.
_COMMENT = re.compile(rb"/\*.*?\*/|//[^\n]*", re.DOTALL)
# A value in quotes, such as a kernel's command line, can have what looks like a comment.
_VALUE_OR_COMMENT = re.compile(rb'("[^\n]*+)|' + _COMMENT.pattern, re.DOTALL)
_SYMBOL = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+CONFIG_(\w+)([^\n]*)", re.MULTILINE | re.ASCII)
_RANDOMISED = ("RANDSTRUCT", "RANDSTRUCT_FULL", "RANDSTRUCT_PERFORMANCE", "GCC_PLUGIN_RANDSTRUCT")


def of_machine(machine: str) -> str:
    """The kernel's name of an architecture for that of ``uname -m``; the latter if it is not known."""
    return _BY_MACHINE.get(machine, machine)


def of_debian_port(port: str) -> str | None:
    """The kernel's name of an architecture for that of a Debian port; None if it is not known."""
    return _BY_DEBIAN.get(port)


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """The configuration in an autoconf.h.

    Attributes:
        symbols: the values by the names without "CONFIG_"; of a symbol that is "=m", "NAME_MODULE".
    """

    symbols: Mapping[str, str]

    @property
    def architecture(self) -> str | None:
        """The kernel's name of its architecture, None if it sets no architecture's symbol, or several."""
        found = [name for name, known in ARCHITECTURES.items() if self.is_set(*known.symbols)]
        if "um" in found:
            return "um"
        return found[0] if len(found) == 1 else None

    @property
    def is_64bit(self) -> bool:
        """Whether it is a 64-bit kernel."""
        return self.is_set("64BIT")

    @property
    def is_randomised(self) -> bool:
        """Whether structures have their members in a random order, which the headers do not tell."""
        return self.is_set(*_RANDOMISED)

    def is_set(self, *names: str) -> bool:
        """Whether one of these symbols is "=y"."""
        return any(self.symbols.get(name) == "1" for name in names)


def without_comments(text: bytes) -> bytes:
    """The text of a header with a space for each comment; a comment that is not closed ends with the text."""
    return _COMMENT.sub(b" ", text + b"\n*/")


def read_configuration(autoconf: bytes) -> Configuration:
    """The configuration in the text of an include/generated/autoconf.h; takes some milliseconds."""
    found = _SYMBOL.finditer(_VALUE_OR_COMMENT.sub(rb"\1 ", autoconf + b"\n*/"))
    return Configuration(
        {match[1].decode(): match[2].strip(b" \t\r").decode("ascii", "backslashreplace") for match in found}
    )
