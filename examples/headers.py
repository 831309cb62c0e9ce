#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Prints where the headers of the running kernel are, and keeps them there while a command runs.

    ./headers.py sh -c 'ls "$KERNEL_HEADERS"'

A program that calls acquire_headers() works on every host: where kheadersd is missing, or has no headers, it
goes on with the place that distributions use. See org.kheaders.Provide(5) for the interface. Needs dbus-next.
"""

import asyncio
import os
import sys

from dbus_next import BusType, DBusError, Message, MessageType, Variant
from dbus_next.aio import MessageBus

TIME_LIMIT = 600  # seconds; a download takes minutes


class NoHeaders(Exception):
    """kheadersd is missing, or has no headers; the message says why."""


async def acquire_headers() -> tuple[str, int]:
    """Ask kheadersd for the headers of the running kernel, and lease them.

    Returns:
        Their path, and a file descriptor: they stay until the last process that has it open ends.

    Raises:
        NoHeaders: there are none.
    """
    call = Message(
        destination="org.kheaders.Provide",
        path="/org/kheaders/Provide",
        interface="org.kheaders.Provide",
        member="Acquire",
        signature="sa{sv}",
        body=["", {"reason": Variant("s", "headers.py")}],
    )
    try:
        bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
        reply = await asyncio.wait_for(bus.call(call), TIME_LIMIT)
    except (OSError, EOFError, DBusError, TimeoutError) as error:
        raise NoHeaders(str(error)) from error
    bus.disconnect()
    if reply is None or reply.message_type is MessageType.ERROR:
        raise NoHeaders(reply.body[0] if reply and reply.body else "the bus is gone")
    path, index, _details = reply.body
    return path, reply.unix_fds[index]


def main() -> int:
    try:
        path, lease = asyncio.run(acquire_headers())
        os.set_inheritable(lease, True)
    except NoHeaders as error:
        print(f"headers: no headers from kheadersd: {error}", file=sys.stderr)
        path = f"/lib/modules/{os.uname().release}/build"
    print(path, flush=True)
    if len(sys.argv) > 1:
        os.execvpe(sys.argv[1], sys.argv[1:], {**os.environ, "KERNEL_HEADERS": path})
    return 0


if __name__ == "__main__":
    sys.exit(main())
