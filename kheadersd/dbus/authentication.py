# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a bus address to an authenticated socket."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

from .address import parse_address
from .errors import ConnectionLost

if TYPE_CHECKING:
    from .address import Address

_MAX_LINE = 4096  # bytes; the server's lines have about fifty


async def connect(address: str) -> socket.socket:
    """Connect to the first address at which a bus listens, and authenticate as the user of this process.

    Returns:
        A non-blocking socket on which messages and descriptors can be sent; the caller closes it.

    Raises:
        ConnectionLost: no bus listens there, or the bus refuses the user, or hangs up.
    """
    try:
        addresses = parse_address(address)
    except ValueError as error:
        raise ConnectionLost(f"cannot connect to the bus: {error}") from error
    reasons = []
    for candidate in addresses:
        try:
            connected = await _connect_one(candidate)
        except (OSError, ValueError) as error:
            reasons.append(getattr(error, "strerror", None) or str(error))
            continue
        try:
            await _authenticate(connected)
        except BaseException as error:
            connected.close()
            if isinstance(error, (OSError, ValueError)):
                raise ConnectionLost(f"the bus at {address} refused the connection: {error}") from error
            raise
        return connected
    raise ConnectionLost(f"cannot connect to the bus at {address}: {'; '.join(reasons)}. Is the bus running?")


async def _connect_one(address: Address) -> socket.socket:
    """
    Raises:
        OSError: no bus listens there.
        ValueError: this is no local socket.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(connected, _socket_name(address))
    except BaseException:
        connected.close()
        raise
    return connected


def _socket_name(address: Address) -> str:
    if address.transport != "unix":
        raise ValueError(f"transport '{address.transport}' is not supported, only 'unix' is")
    if "path" in address.options:
        return address.options["path"]
    if "abstract" in address.options:
        return "\0" + address.options["abstract"]
    if "runtime" in address.options and "XDG_RUNTIME_DIR" in os.environ:
        return f"{os.environ['XDG_RUNTIME_DIR']}/bus"
    raise ValueError("an address without a path")


async def _authenticate(connected: socket.socket) -> None:
    """Go through the EXTERNAL exchange of the D-Bus specification, with passing of descriptors.

    Raises:
        OSError, ValueError: the bus hangs up, or refuses.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(
        connected, b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n"
    )
    await _expect(connected, b"OK")
    await loop.sock_sendall(connected, b"NEGOTIATE_UNIX_FD\r\n")
    await _expect(connected, b"AGREE_UNIX_FD")
    await loop.sock_sendall(connected, b"BEGIN\r\n")


async def _expect(connected: socket.socket, command: bytes) -> None:
    """Read one line, which must be a command of the server's. Before BEGIN, no other line can follow.

    Raises:
        OSError, ValueError: the bus hangs up, or says something else.
    """
    loop = asyncio.get_running_loop()
    received = b""
    while b"\r\n" not in received:
        if len(received) > _MAX_LINE:
            raise ValueError("its answer is endless")
        data = await loop.sock_recv(connected, 1024)
        if not data:
            raise ValueError("it closed the connection during authentication")
        received += data
    line, _, rest = received.partition(b"\r\n")
    if line.split(b" ")[0] != command:
        raise ValueError(f"it answered {line.decode('ascii', 'backslashreplace')} during authentication")
    if rest:
        raise ValueError("it sent more than one answer at a time")
