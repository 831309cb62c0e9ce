"""Kernels from which nothing can be precompiled, or of which a caller has to know something."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kheadersd.pch.bcc_recipe import lacking_names
from kheadersd.pch.libbcc import LIBBCC
from tests.support import bcc as with_bcc
from tests.support.archives import kheaders_files, make_kheaders
from tests.support.needs import needs_root
from tests.support.precompiling import COMPILERS, is_there
from tests.support.running import REPOSITORY, Bus, Daemon, Refused
from tests.support.served_host import ServedHost
from tests.support.small_headers import FILES, RELEASE, header

pytestmark = [
    pytest.mark.slow,
    needs_root("only root's compilers are used"),
    pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang of a known version is installed"),
]

CLANG = next(filter(is_there, COMPILERS), "")
AUTOCONF = "include/generated/autoconf.h"
PROGRAM = """\
#include <linux/sched.h>
__attribute__((section("kprobe/do_exit"), used)) int traced(struct task_struct *task) { return task->pid; }
"""
_PLAIN = "#define CONFIG_X86 1\n#define CONFIG_64BIT 1\n"


def get_pch(bus: Bus) -> Any:
    return bus.call("GetPch", "ssa{sv}", "", "bpf-core", "1", "compiler", "s", CLANG)


def kheadersctl(bus: Bus, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (directory / "program.bpf.c").write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, "-m", "kheadersd.cli", *arguments],
        cwd=directory,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, check=False, text=True, timeout=120,
    )  # fmt: skip


def cc(bus: Bus, directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = (f"--compiler={CLANG}", "--profile=bpf-core", "program.bpf.c", *flags)
    return kheadersctl(bus, directory, "cc", *words)


def show(host: ServedHost, autoconf: str, files: dict[str, bytes] | None = None) -> None:
    host.show(make_kheaders(RELEASE, files_of(autoconf) | (files or {})))


def files_of(autoconf: str) -> dict[str, bytes]:
    """All headers, of the architecture that autoconf.h says."""
    files = kheaders_files(RELEASE) | FILES | {AUTOCONF: autoconf.encode()}
    if "CONFIG_ARM " in autoconf:
        files |= {name.replace("arch/x86/", "arch/arm/"): data for name, data in files.items()}
    return files


def put_in_place(host: ServedHost, autoconf: str) -> Path:
    """The same headers as a tree that is served where it is."""
    tree = host.root / "usr/src/headers"
    for name, data in files_of(autoconf).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    (host.modules / "build").symlink_to("/usr/src/headers")
    return tree


@pytest.mark.parametrize("in_place", [False, True], ids=["archive", "tree"])
@pytest.mark.parametrize("symbols", ["CONFIG_X86 CONFIG_X86_32", "CONFIG_ARM"])
def test_a_32_bit_kernel(
    bus: Bus, host: ServedHost, daemon: Daemon, symbols: str, in_place: bool, tmp_path: Path
) -> None:
    autoconf = "".join(f"#define {symbol} 1\n" for symbol in symbols.split())
    if in_place:
        put_in_place(host, autoconf)
    else:
        show(host, autoconf)
    assert Path(bus.call("GetHeaders", "sa{sv}", "", "0")[0], AUTOCONF).read_text() == autoconf
    refused = kheadersctl(bus, tmp_path, "pch", "bpf-core", f"--compiler={CLANG}")
    assert refused.returncode == 3
    assert f"{RELEASE} is a 32-bit kernel" in refused.stderr
    done = cc(bus, tmp_path)
    assert done.returncode == 3
    assert f"{RELEASE} is a 32-bit kernel" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.o"))


@pytest.mark.parametrize("symbol", ["RANDSTRUCT", "RANDSTRUCT_PERFORMANCE", "GCC_PLUGIN_RANDSTRUCT"])
def test_a_kernel_with_randomised_structures(
    bus: Bus, host: ServedHost, daemon: Daemon, symbol: str, tmp_path: Path
) -> None:
    show(host, f"{_PLAIN}#define CONFIG_{symbol} 1\n")
    for method, signature, options in (("GetHeaders", "sa{sv}", ["0"]), ("Lookup", "s", [])):
        details = bus.call(method, signature, "", *options)[1]
        assert len(details["warnings"]) == 1
        assert f"{RELEASE} randomises" in details["warnings"][0]
        assert "offsets" in details["warnings"][0]
    warnings = details["warnings"]
    (listed,) = bus.call("ListEntries")[0]
    assert listed["warnings"] == warnings
    for _ in range(2):
        assert get_pch(bus)[2]["warnings"] == warnings
    assert daemon.log.read_text().count("CONFIG_RANDSTRUCT") == 1
    daemon.stop()
    daemon.start()
    assert bus.call("Lookup", "s", "")[1]["warnings"] == warnings
    for arguments in ((), ("--", "-DANYTHING=1")):
        done = cc(bus, tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert [line for line in done.stderr.splitlines() if "CONFIG_RANDSTRUCT" in line] == [
            f"kheadersctl: warning: {warnings[0]}"
        ]


def test_randomised_structures_in_a_tree_in_place(bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    put_in_place(host, f"{_PLAIN}#define CONFIG_RANDSTRUCT_FULL 1\n#define CONFIG_RANDSTRUCT 1\n")
    for _ in range(2):
        _, details = bus.call("GetHeaders", "sa{sv}", "", "0")
        assert details["source"] == "tree"
        assert f"{RELEASE} randomises" in details["warnings"][0]
    assert daemon.log.read_text().count("CONFIG_RANDSTRUCT") == 1
    assert get_pch(bus)[2]["warnings"] == details["warnings"]


def test_other_kernels_have_no_warnings(bus: Bus, host: ServedHost, daemon: Daemon, tmp_path: Path) -> None:
    show(host, f"{_PLAIN}#define CONFIG_RANDSTRUCT_NONE 1\n/* #define CONFIG_RANDSTRUCT 1 */\n")
    assert "warnings" not in bus.call("GetHeaders", "sa{sv}", "", "0")[1]
    assert "warnings" not in get_pch(bus)[2]
    assert cc(bus, tmp_path).stderr == ""


# What libbcc's own headers include, and a header of the kernel's that needs its <linux/bpf.h>.
_TYPES = """
typedef _Bool bool;
typedef unsigned char __u8, u8;
typedef signed char __s8, s8;
typedef unsigned short __u16, u16, __be16, __le16, __sum16;
typedef short __s16, s16;
typedef unsigned int __u32, u32, __be32, __le32, __wsum;
typedef int __s32, s32;
typedef unsigned long long __u64, u64, __be64, __le64, __aligned_u64 __attribute__((aligned(8)));
typedef long long __s64, s64;
"""
_NEWER = {
    "include/linux/types.h": header("types", _TYPES),
    "include/linux/bpf_common.h": b"",
    "include/linux/log2.h": b"",
    "include/linux/version.h": b"",
    "include/uapi/linux/if_packet.h": b"",
    "arch/x86/include/asm/page.h": b"",
    "include/linux/bpf.h": header("linux_bpf", "#include <uapi/linux/bpf.h>"),
    "include/uapi/linux/bpf.h": (
        b"#ifndef _UAPI__LINUX_BPF_H__\n#define _UAPI__LINUX_BPF_H__\n#include <linux/types.h>\n"
        b"struct bpf_thing_of_tomorrow { int member; };\n#endif\n"
    ),
    "include/uapi/linux/ptrace.h": header(
        "ptrace",
        "#include <linux/bpf.h>\nstruct pt_regs { char size[sizeof(struct bpf_thing_of_tomorrow)]; };",
    ),
}


@pytest.mark.skipif(not with_bcc.is_installed(), reason="needs libbpfcc, and the clang of its LLVM")
def test_a_libbcc_that_is_too_old(bus: Bus, host: ServedHost, daemon: Daemon, tmp_path: Path) -> None:
    show(host, _PLAIN, _NEWER)
    version = LIBBCC.installed().version
    refused = kheadersctl(bus, tmp_path, "pch", "bcc-small")
    assert refused.returncode == 3
    assert f"libbcc {version} is too old for the kernel {RELEASE}" in refused.stderr
    assert "lacks bpf_thing_of_tomorrow." in refused.stderr
    # The same headers by a compiler that has no bpf.h of its own.
    assert not isinstance(get_pch(bus), Refused)


@pytest.mark.skipif(not with_bcc.is_installed(), reason="needs libbpfcc, and the clang of its LLVM")
def test_what_libbcc_lacks(tmp_path: Path) -> None:
    path = tmp_path / "include/uapi/linux/bpf.h"
    path.parent.mkdir(parents=True)
    path.write_text(
        "/* struct bpf_in_a_comment { */\nstruct bpf_new {\n\tint member;\n};\n"
        "enum bpf_kind { BPF_NEW_KIND, BPF_PROG_TYPE_KPROBE };\nstruct bpf_declared;\n"
    )

    def lacking(complaints: str) -> list[str]:
        return lacking_names(complaints, tmp_path)[1]

    assert lacking("a.h:1:2: error: invalid application of 'sizeof' to 'struct bpf_new'") == ["bpf_new"]
    assert lacking("error: use of undeclared identifier 'BPF_NEW_KIND'; bpf_new") == [
        "BPF_NEW_KIND",
        "bpf_new",
    ]
    assert (
        lacking("error: 'BPF_PROG_TYPE_KPROBE' 'bpf_in_a_comment' 'bpf_declared' 'member' 'bpf_news'") == []
    )
    path.unlink()
    assert lacking("'struct bpf_new'") == []
    os.mkfifo(path)
    assert lacking("'struct bpf_new'") == []


@pytest.mark.parametrize("name", COMPILERS)
def test_plain_headers_on_which_a_compiler_crashes(
    bus: Bus, host: ServedHost, daemon: Daemon, name: str, tmp_path: Path
) -> None:
    """Clang 19 does, on a function that is declared by a typedef and used, unless it is precompiled."""
    if not is_there(name):
        pytest.skip(f"{name} is not installed")
    declared = (
        "struct task_struct { int pid; };\ntypedef int (hash_t)(void *, int, short, int, short);\n"
        "hash_t hash;\nstatic inline int hashed(void) { return hash(0, 1, 2, 3, 4); }"
    )
    show(host, _PLAIN, {"include/linux/sched.h": header("sched", declared)})
    words = (f"--compiler={name}", "--profile=bpf-core", "program.bpf.c", "--", "-DANYTHING=1")
    done = kheadersctl(bus, tmp_path, "cc", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "program.bpf.o").exists()
    assert ("the compiler crashed on plain headers" in done.stderr) == (name == "clang-19")
    assert "Stack dump" not in done.stderr


def test_an_identifier_at_the_end_of_a_long_line_is_told(bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    name = "identifier_" * 40
    show(host, _PLAIN, {"include/linux/sched.h": header("sched", f"int value = {name};")})
    answer = get_pch(bus)
    assert isinstance(answer, Refused)
    assert f"use of undeclared identifier '{name}'" in answer.message
