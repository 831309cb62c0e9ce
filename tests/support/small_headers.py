"""Headers that are few and small, and enough for what the recipes include."""

from __future__ import annotations

RELEASE = "6.1.0-9-test"


_GUARDED = """\
#ifndef _{name}_H
#define _{name}_H
{content}
#endif
"""


def header(name: str, content: str) -> bytes:
    """A header with an include guard."""
    return _GUARDED.format(name=name.upper(), content=content).encode()


# What the recipes include by themselves, and enough besides to tell one thing from another.
FILES = {
    "include/linux/compiler_types.h": header("compiler_types", "#define __user"),
    "include/linux/types.h": header("types", "typedef unsigned long long u64;"),
    "include/linux/list.h": header("list", "struct list_head { struct list_head *next, *prev; };"),
    "include/linux/kref.h": header("kref", "#include <linux/unguarded.h>\nstruct kref { int refcount; };"),
    "include/linux/unguarded.h": b"struct list_head;\n",
    "include/linux/fs.h": header("fs", "struct inode { unsigned long i_ino; };"),
    "include/linux/bpf.h": header("bpf", "struct bpf_map { int id; };"),
    "include/linux/sched.h": header("sched", "struct task_struct { int pid; };"),
    "include/linux/ptrace.h": header("ptrace", "struct pt_regs { unsigned long ip; };"),
    "arch/x86/include/generated/asm/rwonce.h": b"#include <asm-generic/rwonce.h>\n",
}
