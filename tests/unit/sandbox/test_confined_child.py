"""Confined children: what they cannot do, and what is left of those that try."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from kheadersd.errors import Timeout
from kheadersd.sandbox.child import run
from kheadersd.sandbox.command import Command, Finished
from kheadersd.sandbox.confined_child import run_confined
from kheadersd.sandbox.limits import FILE_BYTES, MEMORY_BYTES, exceeded_limit
from kheadersd.sandbox.runners import COMPILE_ENVIRONMENT, compiler_runner, network_runner
from kheadersd.system.priority import IDLE_NICE
from tests.support.clients import eventually
from tests.support.needs import needs_root
from tests.support.running import REPOSITORY

as_root = needs_root("only root's children become another user")


async def shell(
    script: str, seconds: float = 20, *, stdin: bytes = b"", stdout: int | None = None
) -> Finished:
    words = ["/bin/sh", "-c", script]
    return await run_confined(Command(words, COMPILE_ENVIRONMENT, seconds, stdin=stdin, stdout=stdout))


def status(output: str) -> Mapping[str, str]:
    return dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)


async def test_outputs_and_status() -> None:
    done = await shell("cat; echo b >&2; pwd; exit 3", stdin=b"a\n")
    assert done == Finished(3, "a\n/\n", "b\n")
    assert exceeded_limit(done) == ""


async def test_arguments_come_as_they_are() -> None:
    words = ["printf", "%s|", "--", "$HOME", "a b", "", "*"]
    done = await run_confined(Command(words, COMPILE_ENVIRONMENT, 20))
    assert done == Finished(0, "--|$HOME|a b||*|", "")


async def test_only_the_environment_that_was_given() -> None:
    done = await shell("env")
    ours = {
        line for line in done.stdout.splitlines() if not line.startswith(("PWD=", "SHLVL=", "_=", "OLDPWD="))
    }
    assert ours == {f"{name}={value}" for name, value in COMPILE_ENVIRONMENT.items()}


async def test_a_low_priority() -> None:
    command = Command(["nice"], COMPILE_ENVIRONMENT, 20)
    before = await run_confined(command)
    done = await run_confined(dataclasses.replace(command, idle=True))
    assert int(done.stdout) == min(int(before.stdout) + IDLE_NICE, 19)


@as_root
async def test_roots_children_are_nobody() -> None:
    fields = status((await shell("cat /proc/self/status")).stdout)
    assert fields["Uid"].split() == fields["Gid"].split() == ["65534"] * 4
    assert fields["Groups"].split() in ([], ["65534"])
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"


@as_root
async def test_they_cannot_write(tmp_path: Path) -> None:
    done = await shell(f"echo a >{tmp_path}/a; echo a >/etc/a; kill -9 {os.getpid()}")
    assert done.status != 0
    assert os.listdir(tmp_path) == []
    assert "a" not in os.listdir("/etc")


async def test_they_have_no_network() -> None:
    done = await shell("tail -n +3 /proc/self/net/dev | cut -d: -f1; wc -l </proc/self/net/route")
    assert done.stdout.split() == ["lo", "0"]


async def test_too_much_memory() -> None:
    assert MEMORY_BYTES < 3 << 30
    done = await shell("dd if=/dev/zero of=/dev/null bs=3G count=1")
    assert done.status != 0
    assert "memory exhausted" in done.stderr


@pytest.mark.slow
async def test_a_compiler_that_gets_no_more_memory_says_so() -> None:
    lines = ["#define L0 " + "1," * 16, *(f"#define L{i} " + f"L{i - 1} " * 16 for i in range(1, 9))]
    source = "\n".join([*lines, "int a[] = { L8 };"]).encode()
    words = ["clang", "-x", "c", "-", "-fsyntax-only"]
    done = await run_confined(Command(words, COMPILE_ENVIRONMENT, 120, stdin=source))
    assert done.status != 0
    assert exceeded_limit(done) == "it needs more than 2048 MiB of memory"


async def test_too_long_a_file(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = await shell("exec cat /dev/zero", stdout=file.fileno())
        assert os.fstat(file.fileno()).st_size == FILE_BYTES
    assert exceeded_limit(done) == "it wrote more than 256 MiB"


async def test_gigabytes_of_output() -> None:
    done = await shell("head -c 1000000000 /dev/zero; head -c 300000000 /dev/zero >&2; exit 1", 60)
    assert (done.status, len(done.stdout), len(done.stderr)) == (1, 64 << 10, 64 << 10)


async def test_endless_output() -> None:
    with pytest.raises(Timeout, match=r"^/bin/sh took longer than 1 s and was stopped"):
        await shell("yes & yes >&2", 1)


async def test_who_kills_himself() -> None:
    assert exceeded_limit(await shell("kill -9 $$")).startswith(
        "it was killed, as it is when it needs more than 2048"
    )
    assert exceeded_limit(await shell("kill -11 $$")) == "it was ended by signal 11 (Segmentation fault)"
    assert (await shell("exit 255")).status == 255


async def test_nothing_is_left_of_those_who_leave(tmp_path: Path) -> None:
    """A session of one's own is enough to escape from a process group, but not from a namespace."""
    mark = f"{time.time_ns()}"
    done = await shell(f"setsid sleep {mark} & sleep 0.2; echo a")
    assert done.stdout == "a\n"
    with pytest.raises(Timeout):
        await shell(f"setsid sleep {mark} & sleep 100", 0.5)
    work = asyncio.create_task(shell(f"trap '' TERM; setsid sleep {mark} & sleep 100"))
    await eventually(lambda: f"sleep {mark} " in _command_lines())
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await eventually(lambda: mark not in " ".join(_command_lines()))


_HANGS = """
import asyncio, sys
from kheadersd.sandbox.confined_child import run_confined
from kheadersd.sandbox.command import Command
words = ["/bin/sh", "-c", f"trap '' TERM; setsid sleep {sys.argv[1]} & sleep {sys.argv[1]}"]
asyncio.run(run_confined(Command(words, {}, 60)))
"""


async def test_nothing_is_left_when_we_are_killed() -> None:
    mark = f"{time.time_ns()}"
    daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", _HANGS, mark, cwd=REPOSITORY)
    try:
        await eventually(lambda: f"sleep {mark} " in _command_lines())
    finally:
        daemon.kill()
        await daemon.wait()
    await eventually(lambda: mark not in " ".join(_command_lines()))


@as_root
async def test_many_children_end_with_the_time() -> None:
    mark = f"{time.time_ns()}"
    with pytest.raises(Timeout):
        # Fewer than the limit of processes, at which a shell gives up by itself.
        await shell(f"for n in $(seq 100); do sleep {mark} & done; wait", 1)
    await eventually(lambda: mark not in " ".join(_command_lines()))


async def test_a_program_that_is_not_there() -> None:
    for program in ("nonexistent-program", "/nonexistent/x", "/etc/passwd"):
        with pytest.raises(FileNotFoundError):
            await run_confined(Command([program], COMPILE_ENVIRONMENT, 5))


def test_what_is_chosen(tmp_path: Path) -> None:
    assert compiler_runner(tmp_path / "nothing") is run_confined
    assert network_runner(tmp_path / "nothing") is run


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace").replace("\0", " "))
        except OSError:
            continue
    return lines
