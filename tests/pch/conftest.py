"""A host with real headers, and directories that are root's for compilers of the tests' own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import make_kheaders
from kheaders.make import RealHeaders
from running import Bus, Daemon, MakeDaemon
from service.conftest import ServedHost

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


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory for caches: on some file systems it takes long to make many files after removing some."""
    path = Path(tempfile.mkdtemp(prefix="kh-pch-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def host(tmp_path: Path) -> ServedHost:
    """A host whose running kernel shows a small archive."""
    root = tmp_path / "root"
    root.mkdir()
    served = ServedHost(root)
    served.show(make_kheaders(RELEASE, FILES))
    return served


@pytest.fixture
def root(tmp_path: Path, real_headers: RealHeaders) -> Path:
    """A host whose kernel has a real kheaders.ko."""
    root = tmp_path / "real"
    modules = root / "lib/modules" / real_headers.release / "kernel/kernel"
    osrelease = root / "proc/sys/kernel/osrelease"
    for directory in (modules, osrelease.parent):
        directory.mkdir(parents=True)
    osrelease.write_text(real_headers.release + "\n")
    shutil.copy(real_headers.module, modules / "kheaders.ko")
    return root


@pytest.fixture
def daemon(host: ServedHost, memory: Path, bus: Bus, make_daemon: MakeDaemon) -> Daemon:
    """One that serves the small archive."""
    return make_daemon(bus, root=host.root, cache=memory / "cache")


@pytest.fixture
def real_daemon(root: Path, memory: Path, bus: Bus, make_daemon: MakeDaemon) -> Daemon:
    """One that serves real headers."""
    return make_daemon(bus, root=root, cache=memory / "cache")


@pytest.fixture
def roots_own() -> Iterator[Path]:
    """A directory that is root's like all above it, unlike those of temporary files."""
    with made_for_root() as path:
        yield path


@contextlib.contextmanager
def made_for_root() -> Iterator[Path]:
    """As `roots_own`, where that is made more rarely than for each test."""
    path = Path(tempfile.mkdtemp(prefix="kheadersd-test-", dir="/srv"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
