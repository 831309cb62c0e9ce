"""A command run by a unit of its own is bounded and ended as one of our own is."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from running import REPOSITORY

from kheadersd.errors import KheadersError, Timeout
from kheadersd.sources.apt_apart import is_offered, run_apart
from kheadersd.sources.apt_process import MAX_OUTPUT, Finished, clean_environment


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[Path]:
    """A socket with one process for each connection, as the service manager makes them."""
    path = tmp_path / "fetch"
    children: list[subprocess.Popen[bytes]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)

    async def serve() -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            with connection:
                command = [sys.executable, "-m", "kheadersd.sources.apt_apart"]
                children.append(subprocess.Popen(command, stdin=connection.fileno(), cwd=REPOSITORY))  # noqa: ASYNC220

    serving = asyncio.create_task(serve())
    yield path
    serving.cancel()
    await asyncio.wait([serving])
    listener.close()
    for child in children:
        assert await asyncio.to_thread(child.wait, 10) == 0


def shell(
    path: Path,
    script: str,
    directory: Path,
    seconds: float = 20,
    on_line: Callable[[str], None] | None = None,
) -> asyncio.Task[Finished]:
    return asyncio.create_task(
        run_apart(
            ["sh", "-c", script],
            environment=clean_environment(),
            directory=directory,
            seconds=seconds,
            on_line=on_line,
            path=path,
        )
    )


async def test_outputs_and_status(listening: Path, tmp_path: Path) -> None:
    done = await shell(listening, "echo a; echo b >&2; pwd; exit 3", tmp_path)
    assert done == Finished(3, f"a\n{tmp_path}\n", "b\n")


async def test_the_largest_outputs(listening: Path, tmp_path: Path) -> None:
    done = await shell(listening, "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", tmp_path)
    assert (len(done.output), len(done.complaints)) == (MAX_OUTPUT, MAX_OUTPUT)


async def test_lines_come_as_they_are_written(listening: Path, tmp_path: Path) -> None:
    seen = asyncio.Event()
    script = "echo first; while ! [ -e go ]; do sleep 0.05; done; echo second"
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        seen.set()

    work = shell(listening, script, tmp_path, on_line=on_line)
    await asyncio.wait_for(seen.wait(), 10)
    assert lines == ["first"]
    (tmp_path / "go").touch()
    assert await work == Finished(0, "", "")
    assert lines == ["first", "second"]


async def test_a_timeout(listening: Path, tmp_path: Path) -> None:
    with pytest.raises(Timeout, match="sh took longer than 0 s"):
        await shell(listening, "sleep 100", tmp_path, 0.3)


async def test_a_cancelled_caller_leaves_no_child(listening: Path, tmp_path: Path) -> None:
    started = asyncio.get_running_loop().create_future()
    script = "echo $$; trap '' TERM; sleep 100 & wait"
    work = shell(listening, script, tmp_path, on_line=started.set_result)
    pid = int(await asyncio.wait_for(started, 10))
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_program_that_is_not_there(listening: Path, tmp_path: Path) -> None:
    with pytest.raises(KheadersError, match="cannot run /nonexistent/x: No such file"):
        await run_apart(["/nonexistent/x"], environment={}, directory=tmp_path, seconds=5, path=listening)


@pytest.mark.parametrize("said", [b"", b"hello\n", b"[]\n", b'{"status": "x"}\n'])
async def test_an_answer_that_makes_no_sense(tmp_path: Path, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "fetch")
    with pytest.raises(KheadersError, match="gave no answer that makes sense"):
        await shell(tmp_path / "fetch", "true", tmp_path)
    server.close()
    await server.wait_closed()


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(KheadersError, match=r"cannot run sh by kheaders-fetch\.socket: No such file"):
        await shell(tmp_path / "fetch", "true", tmp_path)


async def test_who_it_is_offered_to(listening: Path, tmp_path: Path) -> None:
    assert is_offered(listening)
    assert not is_offered(tmp_path / "missing")
    assert not is_offered(tmp_path)
    if os.geteuid() == 0:
        os.chown(listening, 65534, 65534)
        assert not is_offered(listening)
