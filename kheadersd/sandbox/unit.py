"""Commands in a unit of their own, with another sandbox than the daemon's.

A socket of the service manager's starts one service for each connection, which runs one command and ends. Who
closes the connection stops the command.

A request is one byte, with which a descriptor for the command's standard output may come; then a line of
JSON, and what the command is to read. The answer is a line for each line of the command's standard output, if
that is wanted, as it comes; then a line with the result, and behind it as many bytes of output and of
complaints as that says.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KheadersError, Timeout
from ..system.tasks import within
from .child import Command, Finished, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_MAX_LINE = 1 << 20  # of a request or an answer; the outputs are not in lines
# The other end keeps to the time limit, and needs a moment to end what it killed, and to hang up.
_GRACE = 3.0
_HANG_UP = 1.0
_LINES_AT_ONCE = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A unit that runs commands: a `Run`, by the path of its socket, which has the unit's name."""

    path: Path

    def is_offered(self) -> bool:
        """Whether there is such a socket, and it is meant for the user that we are."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()

    async def __call__(
        self,
        command: Command,
        *,
        on_line: Callable[[str], None] | None = None,
        stdout: int | None = None,
    ) -> Finished:
        """As `process.run`, and nothing of the command is left either when this ends, however it ends.

        Raises:
            Timeout: it took longer than it may, and was killed.
            KheadersError: it could not be started there.
        """
        request = {
            "words": list(command.words),
            "environment": dict(command.environment),
            "seconds": command.seconds,
            "directory": str(command.directory),
            "stdin": len(command.stdin),
            "most": command.most,
            "streamed": on_line is not None,
        }

        def late() -> Timeout:
            return Timeout(
                f"{command.program} took longer than {command.seconds:g} s, "
                f"and {self.path.name}.socket did not stop it"
            )

        reader, writer = await self._connect(command.program, stdout)
        try:
            return await within(
                command.seconds + _GRACE, self._converse(reader, writer, request, command, on_line), late
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise KheadersError(
                f"{command.program}, run by {self.path.name}.socket, gave no answer that makes sense: {error}"
            ) from error
        finally:
            await _hang_up(reader, writer)

    async def _connect(
        self, program: str, stdout: int | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(self.path))
            # The first byte there is finds room.
            socket.send_fds(connection, [b"\n"], [] if stdout is None else [stdout])
            return await asyncio.open_unix_connection(sock=connection, limit=_MAX_LINE)
        except OSError as error:
            connection.close()
            raise KheadersError(
                f"cannot run {program} by {self.path.name}.socket: {error.strerror}"
            ) from error
        except BaseException:
            connection.close()
            raise

    async def _converse(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        request: Mapping[str, Any],
        command: Command,
        on_line: Callable[[str], None] | None,
    ) -> Finished:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may say why
            _write(writer, _encode(request), command.stdin)
            await writer.drain()
        return await self._result(reader, command, on_line)

    async def _result(
        self, reader: asyncio.StreamReader, command: Command, on_line: Callable[[str], None] | None
    ) -> Finished:
        answer = await self._last_answer(reader, on_line)
        if "timeout" in answer:
            raise Timeout(str(answer["timeout"]))
        if "error" in answer:
            raise KheadersError(f"cannot run {command.program}: {answer['error']}")
        lengths = [int(answer[name]) for name in ("output", "complaints")]
        # In UTF-8, what was no text takes three bytes for one.
        if not all(0 <= length <= 3 * command.most for length in lengths):
            raise ValueError("it is longer than was asked for")
        output, complaints = [(await reader.readexactly(length)).decode() for length in lengths]
        return Finished(int(answer["status"]), output, complaints)

    async def _last_answer(self, reader: asyncio.StreamReader, on_line: Callable[[str], None] | None) -> Any:
        for number in itertools.count(1):
            if not (line := await reader.readline()):
                break
            answer = json.loads(line)
            if "line" not in answer:
                return answer
            if on_line is not None:
                on_line(str(answer["line"]))
            if number % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)  # a line that has come in already is read without a pause
        raise ValueError(f"it ended without one; see 'journalctl -t {self.path.name}'")


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Close the connection, if it can be after the other end has: then the command is gone, too."""
    try:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_HANG_UP):
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(_MAX_LINE):
                    pass
    finally:
        # Not close(), which waits until the other end has read all that it was sent.
        writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def main() -> None:
    """Serve the one connection that is our standard input."""
    with socket.socket(fileno=os.dup(0)) as connection:
        connection.setblocking(True)
        first, descriptors, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if first:
            asyncio.run(_serve(connection, descriptors[0] if descriptors else None))


async def _serve(connection: socket.socket, stdout: int | None) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_MAX_LINE)
    try:
        request = json.loads(await reader.readline())
        request["stdin"] = await reader.readexactly(request["stdin"])
    except asyncio.IncompleteReadError:  # it is not wanted any more
        writer.close()
        return
    work = asyncio.create_task(_answer(request, stdout, writer))
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


async def _answer(request: dict[str, Any], stdout: int | None, writer: asyncio.StreamWriter) -> None:
    def on_line(line: str) -> None:
        writer.write(_encode({"line": line}))

    outputs: tuple[bytes, ...] = ()
    try:
        streamed = request.pop("streamed")
        command = Command(**{**request, "directory": Path(request["directory"])})
        finished = await run(command, on_line=on_line if streamed else None, stdout=stdout)
    except Timeout as error:
        answer: dict[str, Any] = {"timeout": error.message}
    except OSError as error:
        answer = {"error": error.strerror}
    else:
        outputs = (finished.output.encode(), finished.complaints.encode())
        answer = {"status": finished.status, "output": len(outputs[0]), "complaints": len(outputs[1])}
    _write(writer, _encode(answer), *outputs)
    await writer.drain()


def _write(writer: asyncio.StreamWriter, *pieces: bytes) -> None:
    """Write pieces that may be empty.

    `StreamWriter.writelines` never finishes with an empty last piece: since Python 3.12 it leaves that in the
    buffer and sends it again and again (asyncio/selector_events.py, `_adjust_leftover_buffer`).
    """
    for piece in pieces:
        writer.write(piece)


def _encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


if __name__ == "__main__":
    main()
