"""A small service that the tests run as a process of its own, with either library.

Usage: service.py ADDRESS. Prints "ready <pid> <library>" once it has its name; ends when the bus does, or on
EOF of its standard input.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import Any

from kheadersd.dbus.codec import LIBRARY, encode
from kheadersd.dbus.connection import Connection
from kheadersd.dbus.objects import Call, Interface, Method, Property, Reply
from kheadersd.errors import NotCached

NAME, PATH, INTERFACE = "org.kheaders.Provide", "/org/kheaders/Provide", "org.kheaders.Provide"
XML = '<interface name="org.kheaders.Provide">\n  <method name="GetHeaders"/>\n</interface>'
TREE = "/var/cache/kheaders/6.1.0-56-cloud-amd64-deadbeef/include-tree"


class Service:
    def __init__(self) -> None:
        self.reply = Reply(encode("s", [TREE]))
        self.level = "info"
        self.started = 0
        self.worked = 0
        self.waiting = 0
        self.cancelled = 0
        self.longest_gap = 0.0
        self.work: asyncio.Task[None] | None = None
        self.methods = {
            "GetHeaders": Method("s", "s", lambda _call: self.reply),
            "Read": Method("s", "s", self.read, only_reads=True),
            "ReadAtOnce": Method("s", "s", self.read, reads_at_once=True),
            "ReadLater": Method("s", "s", self.read_later, reads_at_once=True),
            "Worked": Method("", "u", lambda _call: [self.worked]),
            "Echo": Method("v", "v", lambda call: call.args),
            "WhoAmI": Method("s", "su", self.who_am_i),
            "Slow": Method("u", "", self.slow),
            "Coalesced": Method("s", "s", self.coalesced),
            "Counters": Method("", "uuud", self.counters),
            "Interactive": Method("", "b", lambda call: [call.allow_interactive]),
            "Pipe": Method("", "h", self.pipe),
            "Large": Method("u", "s", lambda call: ["x" * call.args[0]]),
            "Fail": Method("", "", self.fail),
            "FailLater": Method("", "", self.fail_later),
            "Refuse": Method("", "", self.refuse),
            "RefuseLater": Method("", "", self.refuse_later),
            "BadType": Method("", "u", lambda _call: ["text"]),
            "CancelMe": Method("", "", self.cancel_me),
            "Touch": Method("", "", self.touch),
        }
        self.properties = {
            "Version": Property("s", lambda: "1.0", emits="const"),
            "Level": Property("s", lambda: self.level, self.set_level),
            "Waiting": Property("u", lambda: self.waiting, emits="invalidates"),
        }

    def read(self, call: Call) -> list[Any]:
        self.worked += 1
        if call.args[0] == "missing":
            raise NotCached("there is none")
        return call.args  # type: ignore[return-value]

    async def read_later(self, call: Call) -> list[Any]:
        return self.read(call)

    async def who_am_i(self, call: Call) -> list[Any]:
        return [call.sender, (await call.credentials()).uid]

    async def slow(self, call: Call) -> None:
        self.waiting += 1
        try:
            await asyncio.sleep(call.args[0] / 1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1

    async def coalesced(self, _call: Call) -> Reply:
        if self.work is None:
            self.started += 1
            self.work = asyncio.create_task(asyncio.sleep(0.5))
            self.work.add_done_callback(lambda _task: setattr(self, "work", None))
        self.waiting += 1
        try:
            await asyncio.shield(self.work)
        finally:
            self.waiting -= 1
        return self.reply

    def counters(self, _call: Call) -> list[Any]:
        gap, self.longest_gap = self.longest_gap, 0.0
        return [self.started, self.waiting, self.cancelled, gap]

    def pipe(self, _call: Call) -> Reply:
        reader, writer = os.pipe()
        os.write(writer, b"hello")
        os.close(writer)
        return Reply(encode("h", [0]), (reader,))

    def fail(self, _call: Call) -> None:
        raise RuntimeError("secret")

    async def fail_later(self, _call: Call) -> None:
        raise RuntimeError("secret")

    def refuse(self, _call: Call) -> None:
        raise NotCached("nothing is cached for 6.1\0\udc80")

    async def refuse_later(self, _call: Call) -> None:
        raise NotCached("nothing is cached")

    async def cancel_me(self, _call: Call) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(10)

    def touch(self, call: Call) -> None:
        assert isinstance(call.connection, Connection)
        call.connection.properties_changed(PATH, INTERFACE, ["Level", "Waiting", "Version"])

    async def set_level(self, _call: Call, value: Any) -> None:
        self.level = value

    async def watch_gaps(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest_gap = max(self.longest_gap, time.monotonic() - before - 0.01)


async def main(address: str) -> None:
    service = Service()
    connection = await Connection.open(address)
    connection.export(PATH, [Interface(INTERFACE, service.methods, service.properties, XML)])
    await connection.request_name(NAME)
    gaps = asyncio.create_task(service.watch_gaps())
    end = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, end.set)
    print(f"ready {os.getpid()} {LIBRARY}", flush=True)  # noqa: T201
    ending = asyncio.create_task(end.wait())
    await asyncio.wait(
        (ending, asyncio.ensure_future(connection.closed)), return_when=asyncio.FIRST_COMPLETED
    )
    gaps.cancel()
    ending.cancel()
    await connection.close()
    await connection.close()
    await asyncio.wait((gaps, ending))
    left = asyncio.all_tasks() - {asyncio.current_task()}
    print(f"closed {await connection.closed!r} {len(left)} tasks", flush=True)  # noqa: T201


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(sys.argv[1]))
