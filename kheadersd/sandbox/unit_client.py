# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command in a unit of the service manager's, whose sandbox is another than the daemon's.

A socket unit starts one service for each connection; that service is `unit_server`.
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
from .command import Finished
from .unit_protocol import MAX_LINE, encode, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .command import Command

# Seconds. The unit keeps the time limit itself; then it has to kill the command, and to close the connection.
_GRACE = 3.0
_HANG_UP = 1.0
_LINES_AT_ONCE = 100


@dataclasses.dataclass(frozen=True, slots=True)
class UnitClient:
    """A `Run` in a unit of the service manager's.

    Attributes:
        path: of the unit's socket; its last part is the name of the unit.
    """

    path: Path

    def is_offered(self) -> bool:
        """Whether there is such a socket, and it belongs to the daemon's user."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid()

    async def __call__(self, command: Command) -> Finished:
        """As `Run`."""
        request = {
            "words": list(command.words),
            "environment": dict(command.environment),
            "seconds": command.seconds,
            "directory": str(command.directory),
            "stdin": len(command.stdin),
            "max_output": command.max_output,
            "streamed": command.on_line is not None,
            "idle": command.idle,
        }

        def late() -> Timeout:
            return Timeout(
                f"{command.program} took longer than {command.seconds:g} s, "
                f"and {self.path.name}.socket did not stop it"
            )

        reader, writer = await self._connect(command)
        try:
            return await within(
                command.seconds + _GRACE, self._converse(reader, writer, request, command), late
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise KheadersError(
                f"{command.program}, run by {self.path.name}.socket, gave no answer that makes sense: {error}"
            ) from error
        finally:
            await _hang_up(reader, writer)

    async def _connect(self, command: Command) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(0)
            await asyncio.get_running_loop().sock_connect(connection, str(self.path))
            # An empty socket has room for one byte.
            socket.send_fds(connection, [b"\n"], [] if command.stdout is None else [command.stdout])
            return await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE)
        except OSError as error:
            connection.close()
            raise KheadersError(
                f"cannot run {command.program} by {self.path.name}.socket: {error.strerror}"
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
    ) -> Finished:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may say why
            write(writer, encode(request), command.stdin)
            await writer.drain()
        return await self._result(reader, command)

    async def _result(self, reader: asyncio.StreamReader, command: Command) -> Finished:
        answer = await self._last_answer(reader, command.on_line)
        if "timeout" in answer:
            raise Timeout(str(answer["timeout"]))
        if "error" in answer:
            raise KheadersError(f"cannot run {command.program}: {answer['error']}")
        lengths = [int(answer[name]) for name in ("stdout", "stderr")]
        # In UTF-8, what was no text takes three bytes for one.
        if not all(0 <= length <= 3 * command.max_output for length in lengths):
            raise ValueError("it is longer than the daemon asked for")
        stdout, stderr = [(await reader.readexactly(length)).decode() for length in lengths]
        return Finished(int(answer["status"]), stdout, stderr)

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
    """Close the connection, if possible after the unit has closed its end: then the command has ended."""
    try:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_HANG_UP):
                if writer.can_write_eof():
                    writer.write_eof()
                while await reader.read(MAX_LINE):
                    pass
    finally:
        # Not close(), which waits until the unit has read everything.
        writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
