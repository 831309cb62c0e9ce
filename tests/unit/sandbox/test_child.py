"""Children are bounded, and gone when they are not wanted."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Timeout
from kheadersd.sandbox.child import run
from kheadersd.sandbox.command import MAX_OUTPUT, Command, Finished

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


async def shell(
    script: str, directory: Path, seconds: float = 20, on_line: Callable[[str], None] | None = None
) -> Finished:
    return await run(Command(["sh", "-c", script], _ENVIRONMENT, seconds, directory, on_line=on_line))


async def test_outputs_and_status(tmp_path: Path) -> None:
    assert await shell("echo a; echo b >&2; pwd; exit 3", tmp_path) == Finished(3, f"a\n{tmp_path}\n", "b\n")


async def test_output_is_bounded(tmp_path: Path) -> None:
    done = await shell("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", tmp_path)
    assert (done.status, len(done.stdout), len(done.stderr)) == (0, MAX_OUTPUT, MAX_OUTPUT)


async def test_more_output_if_wanted() -> None:
    words = ["sh", "-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"]
    done = await run(Command(words, _ENVIRONMENT, 20, max_output=200_000))
    assert (len(done.stdout), len(done.stderr)) == (200_000, 200_000)


async def test_what_it_reads() -> None:
    text = b"0123456789" * 100_000
    done = await run(Command(["wc", "-c"], {}, 20, stdin=text))
    assert done == Finished(0, "1000000\n", "")


async def test_it_need_not_read() -> None:
    text = b"0123456789" * 100_000
    done = await run(Command(["true"], {}, 20, stdin=text))
    assert done == Finished(0, "", "")
    with pytest.raises(Timeout):
        await run(Command(["sleep", "100"], {}, 0.2, stdin=text))


async def test_output_to_a_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        done = await run(Command(["echo", "a"], {}, 20, stdout=file.fileno()))
    assert done == Finished(0, "", "")
    assert (tmp_path / "out").read_bytes() == b"a\n"


async def test_others_that_hold_the_output_are_killed(tmp_path: Path) -> None:
    with pytest.raises(Timeout):
        await shell("sleep 100 & exit 0", tmp_path, 0.3)


@pytest.mark.parametrize("does", ["sleep 30", "exec yes"])
async def test_one_who_has_left_the_group_holds_up_nobody(tmp_path: Path, does: str) -> None:
    """It holds the outputs, or writes to them without an end."""
    script = f"setsid sh -c 'echo $$ > {tmp_path}/pid; {does}' & exit 0"
    try:
        with pytest.raises(Timeout):
            await asyncio.wait_for(shell(script, tmp_path, 0.3), 20)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


async def test_lines_come_as_they_are_written(tmp_path: Path) -> None:
    lines: list[str] = []
    done = await shell(
        "printf 'a\\nb'; head -c 200000 /dev/zero; printf 'c\\nd\\n'", tmp_path, on_line=lines.append
    )
    assert done == Finished(0, "", "")
    assert lines[0] == "a"
    assert lines[-1] == "d"
    assert len(lines) == 3
    assert len(lines[1]) < MAX_OUTPUT


async def test_a_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(Timeout, match=r"sh took longer than 0\.3 s"):
        await shell("trap '' TERM; (trap '' TERM; sleep 100) & sleep 100; sleep 100", tmp_path, 0.3)
    assert time.monotonic() - start < 50


async def test_a_cancelled_caller_leaves_no_child(tmp_path: Path) -> None:
    task = asyncio.create_task(shell("yes & yes >&2 & wait", tmp_path))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("turns", range(12))
async def test_cancelled_while_it_is_started(turns: int, tmp_path: Path) -> None:
    """At whatever step: asyncio's own start never ends then, or leaves what the child has started."""
    task = asyncio.create_task(shell("sleep 100 & sleep 100", tmp_path))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    _, pending = await asyncio.wait([task], timeout=20)
    assert not pending


@pytest.mark.parametrize("turns", range(20))
@pytest.mark.parametrize("size", [10, 1_000_000])
async def test_cancelled_while_it_is_given_something_to_read(turns: int, size: int) -> None:
    """At any step: asyncio's own pipe raises errors then that are never retrieved."""
    started = asyncio.Event()
    words = ["sh", "-c", "echo started; exec sleep 100"]
    command = Command(words, _ENVIRONMENT, 20, stdin=b"x" * size)
    task = asyncio.create_task(run(dataclasses.replace(command, on_line=lambda _: started.set())))
    if turns >= 10:
        await started.wait()
    for _ in range(turns % 10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        await run(Command(["/nonexistent/x"], {}, 1))


async def test_only_the_environment_that_was_given(tmp_path: Path) -> None:
    done = await run(Command(["/usr/bin/env"], {"A": "b"}, 20))
    assert done == Finished(0, "A=b\n", "")
    assert "input" not in (await shell("read line && echo input", tmp_path)).stdout
