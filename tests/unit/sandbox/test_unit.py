"""A command run by a unit of its own is bounded and ended as a child is."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kheadersd.errors import KheadersError, Timeout
from kheadersd.sandbox import unit_client
from kheadersd.sandbox.command import MAX_OUTPUT, Command, Finished
from kheadersd.sandbox.unit_client import UnitClient
from kheadersd.system.priority import IDLE_NICE
from tests.support.running import REPOSITORY

_ENVIRONMENT = {"PATH": "/usr/bin:/bin"}


@pytest.fixture
async def listening(tmp_path: Path) -> AsyncIterator[Path]:
    """A socket with one process for each connection, as the service manager makes them."""
    path = tmp_path / "kheaders-fetch"
    children: list[subprocess.Popen[bytes]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)

    async def serve() -> None:
        while True:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            with connection:
                command = [sys.executable, "-m", "kheadersd.sandbox.unit_server"]
                children.append(subprocess.Popen(command, stdin=connection.fileno(), cwd=REPOSITORY))  # noqa: ASYNC220

    serving = asyncio.create_task(serve())
    yield path
    serving.cancel()
    await asyncio.wait([serving])
    listener.close()
    for child in children:
        assert await asyncio.to_thread(child.wait, 10) == 0


async def test_a_low_priority(listening: Path) -> None:
    command = Command(["nice"], _ENVIRONMENT, 20, idle=True)
    assert (await UnitClient(listening)(command)).stdout == f"{IDLE_NICE}\n"


def shell(
    path: Path,
    script: str,
    directory: Path,
    seconds: float = 20,
    on_line: Callable[[str], None] | None = None,
) -> asyncio.Task[Finished]:
    return asyncio.create_task(
        UnitClient(path)(Command(["sh", "-c", script], _ENVIRONMENT, seconds, directory, on_line=on_line))
    )


async def test_outputs_and_status(listening: Path, tmp_path: Path) -> None:
    done = await shell(listening, "echo a; echo b >&2; pwd; exit 3", tmp_path)
    assert done == Finished(3, f"a\n{tmp_path}\n", "b\n")


@pytest.mark.parametrize("stdin", [b"", b"x"])
@pytest.mark.parametrize("script", ["true", "cat", "echo a >&2", "echo a"])
async def test_pieces_may_be_empty(listening: Path, stdin: bytes, script: str) -> None:
    """What the command reads, its output and its complaints: each piece is there or not."""
    done = await UnitClient(listening)(Command(["sh", "-c", script], _ENVIRONMENT, 20, stdin=stdin))
    output = {"cat": stdin.decode(), "echo a": "a\n"}.get(script, "")
    assert done == Finished(0, output, "a\n" if ">&2" in script else "")


async def test_the_largest_outputs(listening: Path, tmp_path: Path) -> None:
    done = await shell(listening, "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", tmp_path)
    assert (len(done.stdout), len(done.stderr)) == (MAX_OUTPUT, MAX_OUTPUT)


async def test_what_it_reads_and_where_it_writes(listening: Path, tmp_path: Path) -> None:
    text = b"\0\xff\n" * 1_000_000
    with (tmp_path / "out").open("wb") as file:
        command = Command(["sh", "-c", "cat; echo done >&2"], _ENVIRONMENT, 20, stdin=text)
        done = await UnitClient(listening)(dataclasses.replace(command, stdout=file.fileno()))
    assert done == Finished(0, "", "done\n")
    assert (tmp_path / "out").read_bytes() == text


async def test_bytes_that_are_no_text(listening: Path) -> None:
    done = await UnitClient(listening)(
        Command(["cat"], {}, 20, stdin=b"\xff" * 3_000_000, max_output=2_000_000)
    )
    assert done == Finished(0, "\N{REPLACEMENT CHARACTER}" * 2_000_000, "")


async def test_what_is_not_read_does_not_matter(listening: Path) -> None:
    done = await UnitClient(listening)(Command(["echo", "a"], {}, 20, stdin=b"x" * 3_000_000))
    assert done == Finished(0, "a\n", "")


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
    with pytest.raises(Timeout, match=r"sh took longer than 0\.3 s"):
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


async def test_a_program_that_is_not_there(listening: Path) -> None:
    with pytest.raises(KheadersError, match="cannot run /nonexistent/x: No such file"):
        await UnitClient(listening)(Command(["/nonexistent/x"], {}, 5))


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b'{"status": "x"}\n',
        b'{"status": 0, "stdout": 5, "stderr": 0}\nabc',
        b'{"status": 0, "stdout": 1000000, "stderr": 0}\n' + b"x" * 1000000,
        b'{"status": 0, "stdout": -1, "stderr": 0}\n',
        b"{" * 2000000,
    ],
)
async def test_an_answer_that_makes_no_sense(tmp_path: Path, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "kheaders-fetch")
    with pytest.raises(KheadersError, match="gave no answer that makes sense"):
        await shell(tmp_path / "kheaders-fetch", "true", tmp_path)
    server.close()
    await server.wait_closed()


_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _never_reads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def _never_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass
    await asyncio.Event().wait()


async def _says_lines_for_ever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b'{"line": ""}\n' * 1000)
        await writer.drain()


async def _answers_and_goes_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'{"status": 0, "stdout": 1, "stderr": 0}\n')
    while True:
        writer.write(b"x" * 1000)
        await writer.drain()


@pytest.fixture
async def other_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[_Serve], Awaitable[Path]]]:
    """What answers in the place of a unit."""
    monkeypatch.setattr(unit_client, "_GRACE", 0.2)
    monkeypatch.setattr(unit_client, "_HANG_UP", 0.2)
    tasks: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []
    servers: list[asyncio.Server] = []
    path = tmp_path / "kheaders-fetch"

    async def start(serve: _Serve) -> Path:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            writers.append(writer)
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await serve(reader, writer)

        servers.append(await asyncio.start_unix_server(connected, path, limit=1 << 16))
        return path

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for writer in writers:
        writer.transport.abort()
    for server in servers:
        server.close()
        await server.wait_closed()


_BAD_ENDS = [_never_reads, _never_answers, _says_lines_for_ever]


@pytest.mark.parametrize("serve", _BAD_ENDS)
@pytest.mark.parametrize("stdin", [b"", b"x" * 3_000_000])
async def test_the_limit_holds_whatever_the_other_end_does(
    other_end: Callable[[_Serve], Awaitable[Path]], serve: _Serve, stdin: bytes
) -> None:
    path = await other_end(serve)
    command = Command(["clang"], {}, 0.2, stdin=stdin)
    with pytest.raises(Timeout, match=r"clang took longer than 0\.2 s, and kheaders-fetch\.socket did not"):
        await asyncio.wait_for(UnitClient(path)(dataclasses.replace(command, on_line=lambda _: None)), 30)


@pytest.mark.parametrize("serve", _BAD_ENDS)
async def test_a_cancellation_goes_on_whatever_the_other_end_does(
    other_end: Callable[[_Serve], Awaitable[Path]], serve: _Serve
) -> None:
    path = await other_end(serve)
    work = asyncio.create_task(UnitClient(path)(Command(["clang"], {}, 600, stdin=b"x" * 3_000_000)))
    await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(work, 30)


async def test_an_answer_is_taken_although_more_follows(
    other_end: Callable[[_Serve], Awaitable[Path]],
) -> None:
    path = await other_end(_answers_and_goes_on)
    assert await asyncio.wait_for(UnitClient(path)(Command(["clang"], {}, 600)), 30) == Finished(0, "x", "")


async def test_lines_leave_the_event_loop_to_others(other_end: Callable[[_Serve], Awaitable[Path]]) -> None:
    """However many have come in at once."""
    path = await other_end(_says_lines_for_ever)
    seen = 0
    most = 0

    def count(_: str) -> None:
        nonlocal seen
        seen += 1

    async def look() -> None:
        nonlocal most
        while True:
            before = seen
            await asyncio.sleep(0)
            most = max(most, seen - before)

    looking = asyncio.create_task(look())
    with pytest.raises(Timeout):
        await UnitClient(path)(Command(["clang"], {}, 0.2, on_line=count))
    looking.cancel()
    await asyncio.wait([looking])
    assert 0 < most <= 200


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(KheadersError, match=r"cannot run sh by kheaders-fetch\.socket: No such file"):
        await shell(tmp_path / "kheaders-fetch", "true", tmp_path)


async def test_who_it_is_offered_to(listening: Path, tmp_path: Path) -> None:
    assert UnitClient(listening).is_offered()
    assert not UnitClient(tmp_path / "missing").is_offered()
    assert not UnitClient(tmp_path).is_offered()
    if os.geteuid() == 0:
        os.chown(listening, 65534, 65534)
        assert not UnitClient(listening).is_offered()
