# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small program that can be compiled only if a precompiled header is usable as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .compiler_run import failure
from .profiles import BCC, TYPES
from .recipe import is_front_end

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from .compiler_run import CompilerRun
    from .profiles import Profile

# What libbcc's own headers include. It is in each precompiled header for bcc, and programs include it again.
_OF_LIBBCC = (
    "linux/types.h",
    "linux/bpf_common.h",
    "uapi/linux/if_packet.h",
    "linux/version.h",
    "linux/log2.h",
)

_TYPES_CANARY = """
__attribute__((section("kprobe/canary"), used)) int canary(struct pt_regs *registers)
{
	struct task_struct *task = 0;

	return __builtin_preserve_field_info(task->tgid, 0) + (registers != 0);
}

char canary_license[] __attribute__((section("license"), used)) = "GPL";
"""

# A caller's own list of headers need not declare the registers.
_HEADERS_CANARY = """
__attribute__((section("kprobe/canary"), used)) int canary(struct pt_regs *registers)
{
	return registers != 0;
}

char canary_license[] __attribute__((section("license"), used)) = "GPL";
"""


def canary(profile: Profile) -> str:
    """The program for the precompiled headers of a profile.

    It includes each header, and its debug information describes a type of the kernel.
    """
    before = _OF_LIBBCC if profile.consumer == BCC else ()
    included = "".join(f"#include <{name}>\n" for name in (*before, *profile.headers))
    return included + (_TYPES_CANARY if profile.base == TYPES else _HEADERS_CANARY)


async def compile_canary(run: CompilerRun, pch: Pch, entry: Entry, *, idle: bool = False) -> None:
    """Compile the program of a precompiled header.

    Args:
        idle: whether the compiler runs at a low priority.

    Raises:
        CompileFailed: the precompiled header is not usable.
        Timeout: it took too long.
    """
    record = pch.record
    step = "-emit-llvm-bc" if is_front_end(record.text) else "-c"
    arguments = (*record.text, "-include-pch", str(pch.path), "-w", step, "-o", "/dev/null", "-x", "c", "-")
    finished = await run(record.compiler, arguments, entry, record.canary.encode(), idle=idle)
    if finished.status:
        raise failure(finished, f"{record.compiler} cannot compile a program with {pch.path}")
