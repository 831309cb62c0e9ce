"""kheadersctl pch, types and cc, as an admin types them: real headers, a real clang."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import needs_root
from tests.support.precompiling import COMPILERS, is_there
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon
from tests.support.served_host import ServedHost

pytestmark = [
    pytest.mark.slow,
    needs_root("only root's compilers are used"),
    pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang of a known version is installed"),
]

CLANG = next(filter(is_there, COMPILERS), "")
COMPILER = f"--compiler={CLANG}"

COUNTS_READS = """\
#include <linux/bpf.h>
#include <linux/fs.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, u32);
	__type(value, u64);
	__uint(max_entries, 1024);
} counts SEC(".maps");

SEC("kprobe/vfs_read")
int BPF_KPROBE(count_reads, struct file *file)
{
	u32 key = bpf_get_current_pid_tgid() >> 32;
	u64 one = 1, *count = bpf_map_lookup_elem(&counts, &key);

	if (count)
		__sync_fetch_and_add(count, 1);
	else
		bpf_map_update_elem(&counts, &key, &one, BPF_ANY);
	return 0;
}

char _license[] SEC("license") = "GPL";
"""

CORE = """\
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

SEC("kprobe/do_exit")
int on_exit(void *context)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, tgid);
}

char _license[] SEC("license") = "GPL";
"""


class Shell:
    """kheadersctl in a directory of its own, on a bus."""

    def __init__(self, bus: Bus, directory: Path) -> None:
        self.directory = directory
        self._environment = {
            **os.environ,
            "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
            "PYTHONPATH": str(REPOSITORY),
        }

    def __call__(self, *arguments: str, command: str = "") -> subprocess.CompletedProcess[str]:
        start = shlex.split(command) or [sys.executable, "-m", "kheadersd.cli"]
        return subprocess.run(
            [*start, *arguments],
            cwd=self.directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def left(self) -> set[str]:
        return {path.name for path in self.directory.iterdir()}


@pytest.fixture
def shell(bus: Bus, tmp_path: Path) -> Shell:
    directory = tmp_path / "work"
    directory.mkdir()
    (directory / "reads.bpf.c").write_text(COUNTS_READS)
    (directory / "core.bpf.c").write_text(CORE)
    return Shell(bus, directory)


def is_bpf(path: Path) -> bool:
    header = path.read_bytes()[:20]
    return header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") == 247  # EM_BPF


def test_pch(real_daemon: Daemon, shell: Shell) -> None:
    path = shell("pch", "bpf-core", COMPILER)
    assert (path.returncode, path.stderr) == (0, "")
    assert Path(path.stdout.strip()).name == "headers.pch"
    arguments = shell("pch", "bpf-core", COMPILER, "--arguments").stdout
    told = json.loads(shell("pch", "bpf-core", COMPILER, "--json").stdout)
    assert told["arguments"] == shlex.split(arguments)
    assert told["path"] == path.stdout.strip()
    script = f'eval "{CLANG} $1 -c reads.bpf.c -o reads.o"'
    done = shell("-c", script, "sh", arguments.strip(), command="sh")
    assert (done.returncode, done.stderr) == (0, "")
    assert is_bpf(shell.directory / "reads.o")


def test_pch_without_headers(real_daemon: Daemon, shell: Shell) -> None:
    told = json.loads(shell("pch", "bpf-core", COMPILER, "--drop-headers", "--json").stdout)
    assert told["headers_kept"] is False
    assert shell("list").stdout.split("\t")[1] == "1pch"
    assert shell("verify").returncode == 0
    assert shell("cc", COMPILER, "--profile=bpf-core", "reads.bpf.c").returncode == 0


def test_what_was_dropped_stays_away_at_boot(real_daemon: Daemon, shell: Shell) -> None:
    at_boot = ("env", "--shell=systemd", "--unless-dropped")
    assert shell(*at_boot).stdout.startswith("BCC_KERNEL_SOURCE=")
    assert shell("pch", "bpf-core", COMPILER, "--drop-headers").returncode == 0
    done = shell(*at_boot)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert shell(*at_boot, "--json").stdout == "{}\n"
    assert shell("list").stdout.split("\t")[1] == "1pch"
    # A caller that wants them has them made again.
    assert "BCC_KERNEL_SOURCE=" in shell("env").stdout
    assert shell("list").stdout.split("\t")[1] == "headers+1pch"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pch", "none"], 2, "there is no profile 'none'; there are "),
        (["pch", "bpf-core", "--header", "../x.h"], 2, "'../x.h' is not the name of a header"),
        (["pch", "bpf-core", "--compiler", "clang-99"], 3, "clang-99 is not installed"),
        (["pch", "bpf-core", "--compiler", "gcc"], 2, "'gcc' names no compiler"),
        (["pch", "bpf-core", "1.2.3"], 3, "no source has headers for 1.2.3"),
        (["types", "1.2.3"], 3, "there is no BTF for 1.2.3"),
        (["cc", "none.c"], 1, "cannot read none.c: No such file or directory"),
        (["cc", "reads.bpf.c", "--profile", "none"], 2, "there is no profile 'none'"),
        (["cc"], 2, "the following arguments are required: FILE"),
        (["cc", "reads.bpf.c", "-o", "/nowhere/x.o"], 1, "cannot write /nowhere/x.o: No such file"),
    ],
)
def test_failures(real_daemon: Daemon, shell: Shell, arguments: list[str], code: int, words: str) -> None:
    done = shell(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert shell.left() == {"reads.bpf.c", "core.bpf.c"}


def test_types(bus: Bus, memory: Path, make_daemon: MakeDaemon, shell: Shell) -> None:
    """Of the kernel that runs here, which has BTF and no headers."""
    make_daemon(bus, root=Path("/"), cache=memory / "cache")
    done = shell("types")
    assert (done.returncode, done.stderr) == (0, "")
    assert "struct task_struct {" in Path(done.stdout.strip()).read_text()
    told = json.loads(shell("types", "--json").stdout)
    assert (told["path"], told["kind"], told["fresh"]) == (done.stdout.strip(), "types", False)
    compiled = shell("-c", "core.bpf.c", "-o", "one.o", *told["arguments"], command=CLANG)
    assert (compiled.returncode, compiled.stderr) == (0, "")
    # The same with a precompiled vmlinux.h, of which the program says itself that it wants it.
    done = shell("cc", COMPILER, "-v", "core.bpf.c")
    assert done.returncode == 0
    assert done.stderr.endswith("compiled with a precompiled header\n")
    assert is_bpf(shell.directory / "core.bpf.o")


def test_cc(real_daemon: Daemon, shell: Shell) -> None:
    done = shell("cc", COMPILER, "reads.bpf.c")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert is_bpf(shell.directory / "reads.bpf.o")
    done = shell("cc", COMPILER, "-v", "reads.bpf.c", "-o", "other.o")
    command, how = done.stderr.splitlines()
    assert "-include-pch" in shlex.split(command)
    assert how == "compiled with a precompiled header"
    assert (shell.directory / "other.o").read_bytes() == (shell.directory / "reads.bpf.o").read_bytes()


def test_cc_follows_no_link(real_daemon: Daemon, shell: Shell, tmp_path: Path) -> None:
    """Others may have prepared some in a directory that they can write to."""
    precious = tmp_path / "precious"
    precious.write_text("mine")
    output = shell.directory / "reads.bpf.o"
    output.symlink_to(precious)
    # The shell's number is that of what it becomes: a name that is made of it can be known beforehand.
    script = (
        f"ln -s {precious} .reads.bpf.o.$$; "
        f"exec {sys.executable} -m kheadersd.cli cc {COMPILER} --profile=bpf-core reads.bpf.c"
    )
    assert shell("-c", script, command="sh").returncode == 0
    assert precious.read_text() == "mine"
    assert is_bpf(output)
    assert not output.is_symlink()
    assert output.stat().st_mode & 0o777 == 0o666 & ~_umask()
    (link,) = shell.left() - {"reads.bpf.c", "core.bpf.c", "reads.bpf.o"}
    assert (shell.directory / link).is_symlink()


def test_cc_writes_to_what_is_no_file(real_daemon: Daemon, shell: Shell) -> None:
    assert shell("cc", COMPILER, "--profile=bpf-core", "reads.bpf.c", "-o", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
    compile_ = f"{sys.executable} -m kheadersd.cli cc {COMPILER} --profile=bpf-core reads.bpf.c"
    assert shell("-c", f"{compile_} -o /dev/stdout | cat > piped.o", command="sh").returncode == 0
    assert is_bpf(shell.directory / "piped.o")
    done = shell("cc", COMPILER, "--profile=bpf-core", "reads.bpf.c", "-o", "/dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "kheadersctl: cannot write /dev/full: No space left on device\n",
    )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_cc_in_two_steps(real_daemon: Daemon, shell: Shell) -> None:
    done = shell("cc", COMPILER, "--profile=host-tracing", "-v", "reads.bpf.c")
    assert done.returncode == 0, done.stderr
    steps = [line.split()[0] for line in done.stderr.splitlines()[:2]]
    assert steps == [str(Path("/usr/bin", CLANG).resolve())] * 2
    assert is_bpf(shell.directory / "reads.bpf.o")


@pytest.mark.parametrize("flags", [["-DCONFIG_SMP=0"], ["-std=gnu99"], ["-Wall", "-include", "linux/fs.h"]])
def test_cc_with_what_clang_need_not_notice(real_daemon: Daemon, shell: Shell, flags: list[str]) -> None:
    """A macro that was not there when the headers were compiled changes nothing, and clang says nothing."""
    done = shell("cc", COMPILER, "-v", "reads.bpf.c", "--", *flags)
    assert done.returncode == 0, done.stderr
    assert f"with {shlex.join([flag for flag in flags if flag != '-Wall'])} a precompiled" in done.stderr
    assert "\ncompiled with plain headers\n" in done.stderr
    assert is_bpf(shell.directory / "reads.bpf.o")


def test_cc_of_a_program_that_changes_its_headers(real_daemon: Daemon, shell: Shell) -> None:
    """A precompiled header is as if the macro were not there, and clang says nothing."""
    program = """\
#define CONFIG_NO_SUCH 1 // changes nothing
#undef CONFIG_NR_CPUS
#define CONFIG_NR_CPUS 3
#include <linux/threads.h>
char cpus[CONFIG_NR_CPUS == NR_CPUS ? 1 : -1];
"""
    (shell.directory / "changes.c").write_text(program)
    done = shell("cc", COMPILER, "--profile=bpf-core", "-v", "changes.c")
    assert done.returncode == 0, done.stderr
    assert "kheadersctl: '#define CONFIG_NO_SUCH 1' comes before headers, which may" in done.stderr
    assert done.stderr.endswith("compiled with plain headers\n")


def test_cc_with_harmless_flags(real_daemon: Daemon, shell: Shell) -> None:
    done = shell("cc", COMPILER, "-v", "reads.bpf.c", "--", "-Wall", "-Werror", "-g0")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("compiled with a precompiled header\n")


def test_cc_when_clang_complains(
    bus: Bus, root: Path, memory: Path, make_daemon: MakeDaemon, shell: Shell, roots_own: Path, tmp_path: Path
) -> None:
    """Here a clang that accepts no precompiled header at all."""
    wrapper = roots_own / CLANG
    complains = 'echo "fatal error: malformed or corrupted AST file" >&2; exit 1'
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *-include-pch*) {complains} ;; esac\nexec /usr/bin/{CLANG} "$@"\n'
    )
    wrapper.chmod(0o755)
    config = tmp_path / "kheadersd.conf"
    config.write_text(f"[Compile]\nDirectories={roots_own}\n")
    make_daemon(bus, root=root, cache=memory / "cache", arguments=[f"--config={config}"])
    done = shell("cc", COMPILER, "-v", "reads.bpf.c")
    assert done.returncode == 0, done.stderr
    assert "not accepted (fatal error: malformed or corrupted AST file): compiling with" in done.stderr
    assert done.stderr.endswith("compiled with plain headers\n")
    assert is_bpf(shell.directory / "reads.bpf.o")


def test_cc_where_nothing_can_be_precompiled(
    bus: Bus, root: Path, memory: Path, make_daemon: MakeDaemon, shell: Shell, tmp_path: Path
) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Compile]\nDirectories=/nowhere\n")
    make_daemon(bus, root=root, cache=memory / "cache", arguments=[f"--config={config}"])
    done = shell("cc", COMPILER, "-v", "reads.bpf.c")
    assert done.returncode == 0, done.stderr
    assert f"no precompiled header: {CLANG} is not installed in any of /nowhere" in done.stderr
    assert done.stderr.endswith("compiled with plain headers\n")
    assert is_bpf(shell.directory / "reads.bpf.o")


def test_cc_does_not_take_headers_for_kept(
    bus: Bus, host: ServedHost, memory: Path, make_daemon: MakeDaemon, shell: Shell
) -> None:
    """They have gone, and cannot be had again."""
    daemon = make_daemon(bus, root=host.root, cache=memory / "cache")
    made = shell(
        "pch", "bpf-core", "--header=linux/types.h", "--header=linux/fs.h", COMPILER, "--drop-headers"
    )
    assert made.returncode == 0, made.stderr
    host.archive.unlink()
    (shell.directory / "small.c").write_text("#include <linux/fs.h>\nstruct inode one;\n")
    done = shell("cc", COMPILER, "small.c")
    assert done.returncode == 3, done.stderr
    assert "no headers: no source has headers" in done.stderr
    assert daemon.leftovers() == []


def test_cc_of_a_file_with_the_name_of_an_option(real_daemon: Daemon, shell: Shell) -> None:
    (shell.directory / "reads.bpf.c").rename(shell.directory / "-include.c")
    done = shell("cc", COMPILER, "./-include.c", "-o", "out.o")
    assert done.returncode == 0, done.stderr
    assert is_bpf(shell.directory / "out.o")


def test_cc_where_there_are_no_headers(
    bus: Bus, host: ServedHost, memory: Path, make_daemon: MakeDaemon, shell: Shell
) -> None:
    """But BTF: that is the best there is."""
    host.archive.unlink()
    (host.root / "sys/kernel/btf").mkdir()
    shutil.copy("/sys/kernel/btf/vmlinux", host.root / "sys/kernel/btf/vmlinux")
    make_daemon(bus, root=host.root, cache=memory / "cache")
    (shell.directory / "plain.bpf.c").write_text(
        CORE.replace('"vmlinux.h"', "<vmlinux.h>").replace("#in", "#  in")
    )
    done = shell("cc", COMPILER, "-v", "plain.bpf.c", "--profile=bpf-tracing")
    assert done.returncode == 0, done.stderr
    assert "no headers: no source has headers" in done.stderr
    assert done.stderr.endswith("compiled with vmlinux.h\n")


def test_cc_of_a_wrong_program(real_daemon: Daemon, shell: Shell) -> None:
    (shell.directory / "wrong.c").write_text("int x = y;\n")
    (shell.directory / "wrong.o").write_text("the last good one")
    done = shell("cc", COMPILER, "wrong.c")
    assert done.returncode == 1
    assert "wrong.c:1:9: error: use of undeclared identifier 'y'" in done.stderr
    assert (shell.directory / "wrong.o").read_text() == "the last good one"
    assert shell.left() == {"reads.bpf.c", "core.bpf.c", "wrong.c", "wrong.o"}
