"""vmlinux.h by the real bpftool, of real kernels; clang compiles programs with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.errors import CompileFailed
from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sandbox.confined_child import run_confined
from kheadersd.vmlinux import btf_finder as btf
from kheadersd.vmlinux import generate as vmlinux
from kheadersd.vmlinux.bpftool import PLACES, Bpftool, find_bpftool
from tests.support.made_up_btf import make_btf, make_btf_of
from tests.support.precompiling import COMPILERS, is_there
from tests.support.real_image import real_image
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow

_HERE = Path(__file__).parent
SHOWN = Path("/sys/kernel/btf/vmlinux")


def made_up(data: bytes) -> btf.Btf:
    return btf.Btf(data, "0" * 64, "/boot/vmlinuz-x", "", "")


@pytest.fixture
def out(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / vmlinux.NAME, os.O_RDWR | os.O_CREAT, 0o644)
    yield descriptor
    os.close(descriptor)


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


@pytest.fixture
async def bpftool() -> Bpftool:
    return await find_bpftool(run_confined, PLACES)


async def test_the_real_bpftool(bpftool: Bpftool) -> None:
    assert bpftool.version[0].isdigit()
    assert bpftool.is_current()


async def test_made_up_btf(bpftool: Bpftool, out: int) -> None:
    size = await vmlinux.make(made_up(make_btf()), bpftool, run_confined, out)
    assert b"struct task_struct {\n\tint pid;\n};\n" in os.pread(out, size, 0)


async def test_btf_with_types_that_make_no_sense(bpftool: Bpftool, out: int) -> None:
    bad = make_btf_of(b"\xff" * 240, b"\0task_struct\0")
    with pytest.raises(CompileFailed, match=r"cannot make vmlinux.h of the BTF in /boot/vmlinuz-x: Error: "):
        await vmlinux.make(made_up(bad), bpftool, run_confined, out)


@pytest.mark.skipif(not SHOWN.exists(), reason="this kernel has no BTF")
async def test_of_the_running_kernel(bpftool: Bpftool, out: int, tmp_path: Path) -> None:
    host = Host()
    found = await btf.find(host, host.release_of(""), tmp_path)
    assert found.origin_stamp == btf.stamp(host, found.origin)
    size = await vmlinux.make(found, bpftool, run_confined, out)
    text = os.pread(out, size, 0)
    assert text == output_of(bpftool.path, "btf", "dump", "file", SHOWN, "format", "c")
    compile_with_every_clang(tmp_path)


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
        program = _HERE / "core.bpf.c"
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


def test_memory_is_given_back(tmp_path: Path) -> None:
    """No more than the compressor's dictionary, which is as large as the kernel: 6.12 takes 58 MiB."""
    release, image = real_image()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, image, release, tmp_path],
        check=True,
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    kept, peak = map(int, done.stdout.split())
    assert kept < 4 * 1024
    assert peak < 80 * 1024
