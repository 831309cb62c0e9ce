"""What bpftool writes is checked, and a bpftool is taken only if it is root's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kheadersd.errors import CompileFailed, NotAvailable
from kheadersd.sandbox.command import Command, Finished
from kheadersd.vmlinux import btf_finder as btf
from kheadersd.vmlinux import generate as vmlinux
from kheadersd.vmlinux.bpftool import Bpftool, find_bpftool
from tests.support.made_up_btf import END, GUARD, PUSH, TASK
from tests.support.needs import needs_root

as_root = needs_root("only root's files are taken")


class Canned:
    """A `Run` of which it is known what the command would say and write."""

    def __init__(self, written: bytes = b"", status: int = 0, output: str = "", complaints: str = "") -> None:
        self.commands: list[Sequence[str]] = []
        self._written = written
        self._finished = Finished(status, output, complaints)

    async def __call__(self, command: Command) -> Finished:
        self.commands.append(command.words)
        if command.stdout is not None:
            os.write(command.stdout, self._written)
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
        with pytest.raises(NotAvailable, match="does not print its version"):
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
