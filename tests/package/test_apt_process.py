"""Children are bounded, and gone when they are not wanted."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Timeout
from kheadersd.sources.apt_process import MAX_OUTPUT, Finished, clean_environment, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


async def shell(
    script: str, directory: Path, seconds: float = 20, on_line: Callable[[str], None] | None = None
) -> Finished:
    environment = clean_environment()
    command = ["sh", "-c", script]
    return await run(command, environment=environment, directory=directory, seconds=seconds, on_line=on_line)


async def test_outputs_and_status(tmp_path: Path) -> None:
    assert await shell("echo a; echo b >&2; pwd; exit 3", tmp_path) == Finished(3, f"a\n{tmp_path}\n", "b\n")


async def test_output_is_bounded(tmp_path: Path) -> None:
    done = await shell("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", tmp_path)
    assert (done.status, len(done.output), len(done.complaints)) == (0, MAX_OUTPUT, MAX_OUTPUT)


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
    with pytest.raises(Timeout, match="sh took longer than 0 s"):
        await shell("trap '' TERM; (trap '' TERM; sleep 100) & sleep 100; sleep 100", tmp_path, 0.3)
    assert time.monotonic() - start < 5


async def test_a_cancelled_caller_leaves_no_child(tmp_path: Path) -> None:
    task = asyncio.create_task(shell("yes & yes >&2 & wait", tmp_path))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await run(["/nonexistent/x"], environment={}, directory=tmp_path, seconds=1)


async def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("APT_CONFIG", "/somewhere")
    environment = clean_environment()
    assert environment["LC_ALL"] == "C"
    assert environment["https_proxy"] == "http://127.0.0.1:1"
    assert not {"SECRET", "APT_CONFIG"} & environment.keys()
    assert "DEBIAN_FRONTEND" in (await shell("env; read line && echo input", tmp_path)).output
    assert "input" not in (await shell("read line && echo input", tmp_path)).output
