"""vmlinux.h is made by a bpftool that is root's, of real kernels, and clang compiles programs with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kheadersd.errors import CompileFailed, NotAvailable
from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sandbox.command import Command, Finished
from kheadersd.sandbox.confined_child import run_confined
from kheadersd.vmlinux import btf_finder as btf
from kheadersd.vmlinux import generate as vmlinux
from kheadersd.vmlinux.bpftool import PLACES, Bpftool, find_bpftool
from tests.support.made_up_btf import END, GUARD, PUSH, TASK, make_btf, make_btf_of
from tests.support.needs import needs_root
from tests.support.precompiling import COMPILERS, is_there
from tests.support.real_image import real_image

HERE = Path(__file__).parent
SHOWN = Path("/sys/kernel/btf/vmlinux")
as_root = needs_root("only root's files are taken")
real = pytest.mark.slow


class Canned:
    """A `Run` of which it is known what the command would say and write."""

    def __init__(self, written: bytes = b"", status: int = 0, output: str = "", complaints: str = "") -> None:
        self.commands: list[Sequence[str]] = []
        self._written = written
        self._finished = Finished(status, output, complaints)

    async def __call__(self, command: Command, *, stdout: int | None = None, **_: object) -> Finished:
        self.commands.append(command.words)
        if stdout is not None:
            os.write(stdout, self._written)
        return self._finished


def made_up(data: bytes) -> btf.Btf:
    return btf.Btf(data, "0" * 64, "/boot/vmlinuz-x", "", "")


TOOL = Bpftool(Path("/usr/sbin/bpftool"), "7.1.0", "0" * 64, {})


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / vmlinux.NAME, os.O_RDWR | os.O_CREAT, 0o644)
    yield descriptor
    os.close(descriptor)


async def test_what_bpftool_makes_is_checked(out: int) -> None:
    text = GUARD + PUSH + TASK + END
    run = Canned(text)
    assert await vmlinux.make(made_up(b""), TOOL, run, out) == len(text)
    assert run.commands[0][-7:] == [str(TOOL.path), "btf", "dump", "file", "/dev/stdin", "format", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no include guard"),
        (GUARD + PUSH + TASK, "no include guard"),
        (PUSH + TASK + END, "no include guard"),
        (GUARD + TASK + END, "no preserve_access_index"),
        (GUARD + PUSH + END, "no struct task_struct"),
        (GUARD + PUSH + TASK.replace(b"{", b";") + END, "no struct task_struct"),
    ],
)
async def test_what_is_no_vmlinux_h_is_refused(out: int, text: bytes, message: str) -> None:
    with pytest.raises(CompileFailed, match=rf"what bpftool 7.1.0 made of the BTF in /boot/.*{message}"):
        await vmlinux.make(made_up(b""), TOOL, Canned(text), out)


def test_where_one_piece_ends_and_the_next_begins(out: int) -> None:
    for padding in range((1 << 20) - 200, (1 << 20) + 1):
        os.ftruncate(out, 0)
        text = GUARD + PUSH
        os.pwrite(out, text + b" " * (padding - len(text)) + TASK + END, 0)
        assert vmlinux.check(out, "x") == padding + len(TASK + END)


def test_one_that_is_too_large(out: int) -> None:
    os.truncate(out, vmlinux.MAX_TEXT + 1)
    with pytest.raises(CompileFailed, match="more than the"):
        vmlinux.check(out, "x")


async def test_bpftool_fails(out: int) -> None:
    run = Canned(status=243, complaints="Error: failed to load BTF\nsecond\nthird\nfourth\n")
    with pytest.raises(
        CompileFailed, match=r"bpftool 7.1.0 .* of the BTF in /boot/vmlinuz-x: Error: .*third\."
    ):
        await vmlinux.make(made_up(b""), TOOL, run, out)
    with pytest.raises(CompileFailed, match=r"x: it ended with status 9\."):
        await vmlinux.make(made_up(b""), TOOL, Canned(status=9), out)
    with pytest.raises(CompileFailed, match="x: it was killed, as it is when it needs more than"):
        await vmlinux.make(made_up(b""), TOOL, Canned(status=-9), out)


def test_arguments() -> None:
    assert vmlinux.compile_arguments(Path("/d"), "aarch64") == (
        *("--target=bpf", "-g", "-O2", "-fms-extensions", "-Wno-microsoft-anon-tag"),
        *("-D__TARGET_ARCH_arm64", "-I/d"),
    )
    assert "-I/d" in vmlinux.compile_arguments(Path("/d"), "unheard-of")


@pytest.mark.parametrize("clang", COMPILERS)
def test_tagged_anonymous_members_are_members(clang: str, tmp_path: Path) -> None:
    """Kernels have them since 6.19, and bpftool writes them as they are."""
    if not is_there(clang):
        pytest.skip(f"{clang} is not installed")
    (tmp_path / vmlinux.NAME).write_text("struct a { int b; };\nstruct c { struct a; int d; };\n")
    program = tmp_path / "program.c"
    program.write_text(
        '#include "vmlinux.h"\n_Static_assert(sizeof(struct c) == 8, "c");\n'
        "int b(struct c *c) { return c->b; }\n"
    )
    arguments = vmlinux.compile_arguments(tmp_path, "x86_64")
    command = [clang, *arguments, "-c", str(program), "-o", str(tmp_path / "program.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@as_root
async def test_a_bpftool_is_root_s_and_says_its_version(tmp_path: Path) -> None:
    # What pytest makes is below a directory that others can write to.
    place = Path("/var/lib") / f"kheadersd-test-{os.getpid()}"
    tool = place / "bpftool"
    works = Canned(output="/x/bpftool v7.5.0\nusing libbpf v1.5\n")
    place.mkdir()
    try:
        with pytest.raises(NotAvailable, match=f"it is not in {place}"):
            await find_bpftool(works, [str(place)])
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
        with pytest.raises(NotAvailable, match="is a script"):
            await find_bpftool(works, [str(place)])
        shutil.copy("/bin/true", tool)
        found = await find_bpftool(works, [str(place)])
        assert (found.path, found.version, found.is_current()) == (tool, "7.5.0", True)
        with pytest.raises(NotAvailable, match="does not say its version"):
            await find_bpftool(Canned(output="hello\n"), [str(place)])
        await find_bpftool(works, [f"{place.parent}/kheadersd-*-{os.getpid()}"])
        shutil.copy("/bin/false", tool)
        assert not found.is_current()
        assert (await find_bpftool(works, [str(place)])).digest != found.digest
        tool.chmod(0o775)
        with pytest.raises(NotAvailable, match="others than root can write to it"):
            await find_bpftool(works, [str(place)])
        tool.chmod(0o755)
        os.chown(tool, 65534, 65534)
        with pytest.raises(NotAvailable, match="belongs to the user 65534"):
            await find_bpftool(works, [str(place)])
        tool.unlink()
        tool.symlink_to(tmp_path / "bpftool")
        shutil.copy("/bin/true", tmp_path / "bpftool")
        with pytest.raises(NotAvailable, match="others than root can write to /"):
            await find_bpftool(works, [str(place)])
        assert not found.is_current()
    finally:
        shutil.rmtree(place)


@pytest.fixture
async def bpftool() -> Bpftool:
    return await find_bpftool(run_confined, PLACES)


@real
async def test_the_real_bpftool(bpftool: Bpftool) -> None:
    assert bpftool.version[0].isdigit()
    assert bpftool.is_current()


@real
async def test_made_up_btf(bpftool: Bpftool, out: int) -> None:
    size = await vmlinux.make(made_up(make_btf()), bpftool, run_confined, out)
    assert b"struct task_struct {\n\tint pid;\n};\n" in os.pread(out, size, 0)


@real
async def test_btf_with_types_that_make_no_sense(bpftool: Bpftool, out: int) -> None:
    bad = make_btf_of(b"\xff" * 240, b"\0task_struct\0")
    with pytest.raises(CompileFailed, match=r"cannot make vmlinux.h of the BTF in /boot/vmlinuz-x: Error: "):
        await vmlinux.make(made_up(bad), bpftool, run_confined, out)


@real
@pytest.mark.skipif(not SHOWN.exists(), reason="this kernel has no BTF")
async def test_of_the_running_kernel(bpftool: Bpftool, out: int, tmp_path: Path) -> None:
    host = Host()
    found = await btf.find(host, host.release_of(""), tmp_path)
    assert found.origin_stamp == btf.stamp(host, found.origin)
    size = await vmlinux.make(found, bpftool, run_confined, out)
    text = os.pread(out, size, 0)
    assert text == output_of(bpftool.path, "btf", "dump", "file", SHOWN, "format", "c")
    compile_with_every_clang(tmp_path)


@real
async def test_of_an_installed_kernel(bpftool: Bpftool, out: int, tmp_path: Path) -> None:
    release, image = real_image()
    boot = tmp_path / "host/boot"
    boot.mkdir(parents=True)
    (boot / f"vmlinuz-{release}").symlink_to("/image")
    os.link(shutil.copy(image, tmp_path / "image"), tmp_path / "host/image")
    found = await btf.find(Host(tmp_path / "host"), Release(release), tmp_path)
    assert found.build_id
    await vmlinux.make(found, bpftool, run_confined, out)
    compile_with_every_clang(tmp_path)


def output_of(*command: str | Path) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


def compile_with_every_clang(directory: Path) -> None:
    arguments = vmlinux.compile_arguments(directory, os.uname().machine)
    compilers = [name for name in ("clang-14", "clang-16", "clang-19") if shutil.which(name)]
    assert compilers
    for compiler in compilers:
        made = directory / f"{compiler}.o"
        program = HERE / "core.bpf.c"
        output_of(compiler, *arguments, "-Wall", "-Werror", "-c", program, "-o", made)
        sections = output_of("readelf", "-SW", made).decode()
        assert all(name in sections for name in ("kprobe/do_unlinkat", ".maps", ".BTF.ext"))


MEASURE = """
import sys, threading
from pathlib import Path
from kheadersd.system import malloc
from kheadersd.vmlinux import kernel_image

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4

malloc.keep_little()
before = resident()
for _ in range(3):
    found = kernel_image.read_image(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), threading.Event())
    assert len(found.btf) > 1 << 20
    del found
malloc.give_back()
peak = int([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
print(resident() - before, peak - before)
"""


@real
def test_memory_is_given_back(tmp_path: Path) -> None:
    """No more than the compressor's dictionary, which is as large as the kernel: 6.12 takes 58 MiB."""
    release, image = real_image()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, image, release, tmp_path],
        check=True,
        capture_output=True,
        text=True,
        cwd=HERE.parent.parent,
    )
    kept, peak = map(int, done.stdout.split())
    assert kept < 4 * 1024
    assert peak < 80 * 1024
