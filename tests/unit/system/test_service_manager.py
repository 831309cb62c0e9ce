"""What the service manager is told, by a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from kheadersd.system.service_manager import ServiceManager
from tests.support.notify_socket import received


async def test_what_is_told(listening: socket.socket, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    assert environment == {"HOME": "/"}
    manager.start()
    manager.reloading()
    manager.reloaded()
    assert received(listening) == [], "not before it is ready"
    manager.ready()
    manager.status("idle")
    manager.status("idle")
    manager.reloading()
    manager.reloaded()
    manager.stopping()
    ready, status, reloading, reloaded, stopping = received(listening)
    assert (ready, status, reloaded, stopping) == ("READY=1", "STATUS=idle", "READY=1", "STOPPING=1")
    first, second = reloading.split("\n")
    assert first == "RELOADING=1"
    assert abs(int(second.removeprefix("MONOTONIC_USEC=")) - time.monotonic_ns() // 1000) < 1_000_000
    manager.close()


async def test_an_abstract_address() -> None:
    name = f"kheadersd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.setblocking(False)
        manager = ServiceManager({"NOTIFY_SOCKET": "@" + name})
        manager.start()
        manager.ready()
        assert received(listening) == ["READY=1"]
        manager.close()


async def test_a_service_manager_that_does_not_read(
    listening: socket.socket, environment: dict[str, str]
) -> None:
    manager = ServiceManager(environment)
    manager.start()
    begun = time.monotonic()
    for number in range(1000):
        manager.status(str(number))
    manager.ready()
    manager.status("the last")
    assert time.monotonic() - begun < 10
    first = received(listening)
    assert first[0] == "STATUS=0"
    assert len(first) < 1000
    await asyncio.sleep(0.3)
    assert received(listening) == ["READY=1", "STATUS=the last"]
    manager.close()


async def test_a_socket_that_is_gone(listening: socket.socket, environment: dict[str, str]) -> None:
    manager = ServiceManager(environment)
    manager.start()
    os.unlink(listening.getsockname())
    manager.ready()
    manager.status("not heard")
    manager.close()
    manager.stopping()


@pytest.mark.parametrize(
    ("variables", "feeds"),
    [
        ({"WATCHDOG_USEC": "200000"}, True),
        ({"WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({}, False),
    ],
)
async def test_the_watchdog(
    listening: socket.socket, environment: dict[str, str], variables: dict[str, str], feeds: bool
) -> None:
    manager = ServiceManager(environment | variables)
    manager.start()
    await asyncio.sleep(0.35)
    assert set(received(listening)) == ({"WATCHDOG=1"} if feeds else set())
    time.sleep(0.3)  # noqa: ASYNC251 - the event loop hangs
    assert received(listening) == []
    manager.close()
