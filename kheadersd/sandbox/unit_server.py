# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service of a unit: runs the command that the daemon asks for, and ends.

Run as ``python3 -m kheadersd.sandbox.unit_server`` with the connection as standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from ..errors import Timeout
from ..system.priority import lower_priority
from .child import run
from .command import Command
from .unit_protocol import MAX_LINE, encode, write

_OF_UNIT = ("REGISTRY_AUTH_FILE",)
"""Variables that a command gets from the unit, whose credentials the daemon cannot read."""


def main() -> None:
    """Serve the connection that is the standard input."""
    with socket.socket(fileno=os.dup(0)) as connection:
        connection.settimeout(None)
        first, descriptors, _, _ = socket.recv_fds(connection, 1, 1, socket.MSG_CMSG_CLOEXEC)
        if first:
            asyncio.run(_serve(connection, descriptors[0] if descriptors else None))


async def _serve(connection: socket.socket, stdout: int | None) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=MAX_LINE)
    try:
        request = json.loads(await reader.readline())
        request["stdin"] = await reader.readexactly(request["stdin"])
    except asyncio.IncompleteReadError:  # the daemon closed the connection
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
        writer.write(encode({"line": line}))

    outputs: tuple[bytes, ...] = ()
    try:
        lines = on_line if request.pop("streamed") else None
        request["directory"] = Path(request["directory"])
        request["environment"] |= {name: os.environ[name] for name in _OF_UNIT if name in os.environ}
        command = Command(**request, stdout=stdout, on_line=lines)
        if command.idle:
            lower_priority()
        finished = await run(command)
    except Timeout as error:
        answer: dict[str, Any] = {"timeout": error.message}
    except OSError as error:
        answer = {"error": error.strerror}
    else:
        outputs = (finished.stdout.encode(), finished.stderr.encode())
        answer = {"status": finished.status, "stdout": len(outputs[0]), "stderr": len(outputs[1])}
    write(writer, encode(answer), *outputs)
    await writer.drain()


if __name__ == "__main__":
    main()
