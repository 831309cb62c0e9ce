# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generates vmlinux.h from BTF with bpftool, and tells how programs are compiled with it.

bpftool is the kernel's own tool, and CO-RE programs are written against the vmlinux.h that it generates. The
Python libraries that read BTF generate no C.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CompileFailed
from ..host.architecture import ARCHITECTURES, of_machine
from ..sandbox.command import Command
from ..sandbox.limits import why_failed
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from ..sandbox.command import Run
    from .bpftool import Bpftool
    from .btf_finder import Btf

NAME = "vmlinux.h"
"""The name of the file, as programs include it."""

MAX_TEXT = 64 * 1024 * 1024
"""Bytes. That of a distribution's kernel has 3 to 6 MB."""

SECONDS = 60.0
"""The time limit of bpftool, which takes some 0.2 s."""

_GUARD, _END_OF_GUARD = b"#ifndef __VMLINUX_H__\n#define __VMLINUX_H__\n", b"#endif /* __VMLINUX_H__ */"
_RELOCATABLE = b"__attribute__((preserve_access_index))"
_OF_KERNEL = b"\nstruct task_struct {"
_NEAR = 4096
_PIECE = 1024 * 1024
_FIRST_LINES = 3


_EXTENSIONS = ("-fms-extensions", "-Wno-microsoft-anon-tag")


async def make(btf: Btf, bpftool: Bpftool, run: Run, out: int) -> int:
    """Write vmlinux.h in some 0.3 s; the same bytes from the same BTF by the same bpftool.

    Args:
        run: runs bpftool outside the daemon.
        out: an empty file, open for reading and writing; its content is good only if this returns.

    Returns:
        The size in bytes.

    Raises:
        CompileFailed: bpftool fails, or what it writes is no complete vmlinux.h.
        Timeout: it takes more than `SECONDS`.
        KheadersError: ``run`` cannot run anything.
    """
    # bpftool opens its input by a name and seeks in it; the standard input of a command is such a file.
    words = [str(bpftool.path), "btf", "dump", "file", "/dev/stdin", "format", "c"]
    finished = await run(Command(words, COMPILE_ENVIRONMENT, SECONDS, stdin=btf.data, stdout=out))
    if finished.status != 0:
        lines = "; ".join(finished.stderr.splitlines()[:_FIRST_LINES])
        said = why_failed(finished, lines)
        raise CompileFailed(
            f"bpftool {bpftool.version} cannot make {NAME} of the BTF in {btf.origin}: {said}. "
            "For a newer kernel than itself, a newer bpftool may be needed"
        )
    return await in_thread(check, out, f"what bpftool {bpftool.version} made of the BTF in {btf.origin}")


def check(descriptor: int, label: str) -> int:
    """Check that a file is a complete vmlinux.h, and return its size in bytes; some milliseconds.

    A complete one begins and ends with the include guard, and has a kernel's types with the attribute that
    CO-RE needs.

    Raises:
        CompileFailed: it is not complete.
    """
    size = os.fstat(descriptor).st_size
    if size > MAX_TEXT:
        raise CompileFailed(f"{label} has {size} bytes, more than the limit of {MAX_TEXT}")
    head = os.pread(descriptor, _NEAR, 0)
    if not head.startswith(_GUARD) or _END_OF_GUARD not in os.pread(descriptor, _NEAR, max(size - _NEAR, 0)):
        raise CompileFailed(f"{label} is not a complete {NAME}: it has no include guard")
    if _RELOCATABLE not in head:
        raise CompileFailed(f"{label} is not a {NAME} for CO-RE: it has no preserve_access_index")
    for offset in range(0, size, _PIECE):
        if _OF_KERNEL in os.pread(descriptor, _PIECE + len(_OF_KERNEL), offset):
            return size
    raise CompileFailed(f"{label} is not a kernel's {NAME}: it has no struct task_struct")


def compile_arguments(directory: Path, machine: str) -> tuple[str, ...]:
    """The arguments for a CO-RE program that includes "vmlinux.h": ``clang <arguments> -c prog.bpf.c``.

    The program's other includes, such as <bpf/bpf_helpers.h>, are in the package libbpf-dev. Without -g the
    program has no BTF, and so no relocations. Without Microsoft's extensions, structures of kernels since
    6.19 are too small, because these have tagged anonymous members; clang only warns.

    Args:
        directory: the one of vmlinux.h.
        machine: as ``uname -m`` prints it; <bpf/bpf_tracing.h> needs the macro.
    """
    target = of_machine(machine)
    macro = (f"-D__TARGET_ARCH_{target}",) if target in ARCHITECTURES else ()
    return ("--target=bpf", "-g", "-O2", *_EXTENSIONS, *macro, f"-I{directory}")
