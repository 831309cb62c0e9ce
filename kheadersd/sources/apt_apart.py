"""apt's downloads in a unit of their own, so that the daemon needs no access to the network.

kheaders-fetch.socket starts one kheaders-fetch@.service for each connection, which runs one command and ends.
The request is a line of JSON; the answer is one line for each line of the command's standard output, as it
comes, and a last one with the result. Who closes the connection stops the command.

It is the same user, the same directories and the same command as without it; only the sandbox is another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KheadersError, Timeout
from .apt_process import MAX_OUTPUT, Finished, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SOCKET = Path("/run/kheaders-fetch")

_UNIT = "kheaders-fetch.socket"
_MAX_LINE = 16 * MAX_OUTPUT  # two outputs in JSON, in which a character may take six bytes
# The other end keeps to the time limit, and needs a moment to end what it killed.
_GRACE = 10.0


def is_offered(path: Path = SOCKET) -> bool:
    """Whether there is such a socket, and it is meant for the user that we are."""
    try:
        status = path.stat()
    except OSError:
        return False
    return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()


async def run_apart(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    seconds: float,
    on_line: Callable[[str], None] | None = None,
    path: Path = SOCKET,
) -> Finished:
    """As `apt_process.run`, and nothing of the command is left either when this ends, however it ends.

    Raises:
        Timeout: it took longer than ``seconds``, and was killed.
        KheadersError: it could not be started there.
    """
    request = {
        "command": list(command),
        "environment": dict(environment),
        "directory": str(directory),
        "seconds": seconds,
        "streamed": on_line is not None,
    }
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_LINE)
    except OSError as error:
        raise KheadersError(f"cannot run {command[0]} by {_UNIT}: {error.strerror}") from error
    try:
        async with asyncio.timeout(seconds + _GRACE):
            writer.write(_encode(request))
            return _result(await _last_answer(reader, on_line), command[0])
    except TimeoutError:
        raise Timeout(f"{command[0]} took longer than {seconds:.0f} s, and {_UNIT} did not stop it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KheadersError(
            f"{command[0]}, run by {_UNIT}, gave no answer that makes sense: {error}"
        ) from error
    finally:
        await _hang_up(reader, writer)


async def _last_answer(reader: asyncio.StreamReader, on_line: Callable[[str], None] | None) -> Any:
    while line := await reader.readline():
        answer = json.loads(line)
        if "line" not in answer:
            return answer
        if on_line is not None:
            on_line(answer["line"])
    raise ValueError("it ended without one; see 'journalctl -t kheaders-fetch'")


def _result(answer: Any, program: str) -> Finished:
    if "timeout" in answer:
        raise Timeout(answer["timeout"])
    if "error" in answer:
        raise KheadersError(f"cannot run {program}: {answer['error']}")
    return Finished(int(answer["status"]), str(answer["output"]), str(answer["complaints"]))


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection, after the other end has: then the command is gone, too."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_GRACE):
            if writer.can_write_eof():
                writer.write_eof()
            while await reader.read(_MAX_LINE):
                pass
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def main() -> None:
    """Serve the one connection that is our standard input."""
    asyncio.run(_serve(socket.socket(fileno=os.dup(0))))


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_MAX_LINE)
    request = json.loads(await reader.readline())
    work = asyncio.create_task(_answer(request, writer))
    hung_up = asyncio.create_task(reader.read())
    try:
        await asyncio.wait((work, hung_up), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, hung_up):
            task.cancel()
        await asyncio.wait((work, hung_up))
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if not work.cancelled():
        work.result()


async def _answer(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    def on_line(line: str) -> None:
        writer.write(_encode({"line": line}))

    try:
        finished = await run(
            request["command"],
            environment=request["environment"],
            directory=Path(request["directory"]),
            seconds=request["seconds"],
            on_line=on_line if request["streamed"] else None,
        )
    except Timeout as error:
        answer: dict[str, Any] = {"timeout": error.message}
    except OSError as error:
        answer = {"error": error.strerror}
    else:
        answer = dataclasses.asdict(finished)
    writer.write(_encode(answer))
    await writer.drain()


def _encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


if __name__ == "__main__":
    main()
