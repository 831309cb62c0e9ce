"""From a bus address to an authenticated socket."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from .codec import Authentication, parse_address
from .errors import ConnectionLost

if TYPE_CHECKING:
    from .codec import Address

_MAX_LINE = 4096  # bytes; the server's lines have about fifty


async def connect(address: str) -> socket.socket:
    """Connect to the first address that takes us, and authenticate as our user, with passing of descriptors.

    Returns:
        A non-blocking socket on which messages can be sent; the caller closes it.

    Raises:
        ConnectionLost: nothing listens there, or it refuses us, or hangs up.
    """
    try:
        ways = parse_address(address)
    except ValueError as error:
        raise ConnectionLost(f"cannot connect to the bus: {error}") from error
    reasons = []
    for way in ways:
        try:
            connected = await _connect_one(way)
        except (OSError, ValueError) as error:
            reasons.append(getattr(error, "strerror", None) or str(error))
            continue
        try:
            await _authenticate(connected)
        except BaseException as error:
            connected.close()
            if isinstance(error, (OSError, ValueError)):
                raise ConnectionLost(f"the bus at {address} did not let us in: {error}") from error
            raise
        return connected
    raise ConnectionLost(f"cannot connect to the bus at {address}: {'; '.join(reasons)}. Is the bus running?")


async def _connect_one(way: Address) -> socket.socket:
    """
    Raises:
        OSError: nobody listens there.
        ValueError: this is no local socket.
    """
    if way.transport != "unix":
        raise ValueError(f"transport '{way.transport}' is not supported, only 'unix' is")
    if "path" in way.options:
        name = way.options["path"]
    elif "abstract" in way.options:
        name = "\0" + way.options["abstract"]
    elif "runtime" in way.options and "XDG_RUNTIME_DIR" in os.environ:
        name = os.path.join(os.environ["XDG_RUNTIME_DIR"], "bus")
    else:
        raise ValueError("an address without a path")
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(connected, name)
    except BaseException:
        connected.close()
        raise
    return connected


async def _authenticate(connected: socket.socket) -> None:
    """
    Raises:
        OSError, ValueError: the server hung up, or refuses.
    """
    loop = asyncio.get_running_loop()
    exchange = Authentication()
    await loop.sock_sendall(connected, b"\0" + exchange.first())
    received = b""
    while True:
        line, separator, rest = received.partition(b"\r\n")
        if not separator:
            if len(received) > _MAX_LINE:
                raise ValueError("its answer is endless")
            data = await loop.sock_recv(connected, 1024)
            if not data:
                raise ValueError("it closed the connection during authentication")
            received += data
            continue
        received = rest
        answer, done = exchange.next(line)
        await loop.sock_sendall(connected, answer)
        if done:
            if received:
                raise ValueError("it spoke before its turn")
            return
