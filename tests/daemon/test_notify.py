"""The service manager's side of the socket, real."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.daemon.observer import StatusObserver
from kheadersd.system.service_manager import ServiceManager
from tests.support.clients import wait_until
from tests.support.in_process import Nobody
from tests.support.running import Bus, Daemon, MakeDaemon


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def environment(listening: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": listening.getsockname(), "HOME": "/"}


def received(listening: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(listening.recv(4096).decode())
    except BlockingIOError:
        return messages


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
    manager.status("nobody hears it")
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


async def test_the_status_follows() -> None:
    told: list[float] = []
    observer = StatusObserver(Nobody(), lambda: told.append(time.monotonic()))
    for _ in range(100):
        observer.changed()
    assert told == []
    await asyncio.sleep(0.7)
    assert len(told) == 1


@pytest.fixture
def daemon(bus: Bus, make_daemon: MakeDaemon, listening: socket.socket, tmp_path: Path) -> Daemon:
    (tmp_path / "conf").write_text("[Cache]\nMaxEntries=5\n")
    variables = {"NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "400000"}
    return make_daemon(bus, environment=variables, arguments=[f"--config={tmp_path / 'conf'}"])


def hear(listening: socket.socket, wanted: str, seconds: float = 5) -> list[str]:
    """All messages up to the wanted one."""
    heard: list[str] = []
    listening.settimeout(seconds)
    try:
        while not heard or not heard[-1].startswith(wanted):
            heard.append(listening.recv(4096).decode())
    finally:
        listening.setblocking(False)
    return heard


def test_a_daemon_tells_how_it_is(daemon: Daemon, listening: socket.socket) -> None:
    hear(listening, "READY=1")
    (status,) = [text for text in hear(listening, "STATUS=") if text.startswith("STATUS=")]
    assert status == "STATUS=idle; 0 entries, 0 MiB, 0 leases; kheaders is absent"
    hear(listening, "WATCHDOG=1", 1)
    os.kill(daemon.pid, signal.SIGSTOP)
    received(listening)
    time.sleep(0.5)
    assert received(listening) == []
    os.kill(daemon.pid, signal.SIGCONT)
    assert daemon.stop() == 0
    assert "STOPPING=1" in received(listening)


def test_a_daemon_reads_its_configuration_again(
    bus: Bus, daemon: Daemon, listening: socket.socket, tmp_path: Path
) -> None:
    hear(listening, "READY=1")
    (tmp_path / "conf").write_text(
        "[Cache]\nMaxEntries=7\nDirectory=/somewhere\n[Headers]\nSources=tree sysfs\nNonsense=1\n"
        "[Log]\nLevel=debug\n[Module]\nLoader=none\n"
    )
    os.kill(daemon.pid, signal.SIGHUP)
    assert hear(listening, "RELOADING=1")
    assert hear(listening, "READY=1")
    description = bus.call("Describe")[0]
    assert '"max_entries": 7' in description
    assert '"sources": ["tree", "sysfs"]' in description
    log = daemon.log.read_text()
    assert (
        "The configuration was read again: Sources=, Directory=, MaxEntries=, Loader=, Level=; "
        "Directory= and Loader= will take effect when kheadersd is started again"
    ) in log
    assert "conf:6: unknown key" in log
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: "nothing has changed" in daemon.log.read_text())


def test_told_again_and_again(bus: Bus, daemon: Daemon, listening: socket.socket) -> None:
    for _ in range(50):
        os.kill(daemon.pid, signal.SIGHUP)
        received(listening)
    wait_until(lambda: "nothing has changed" in daemon.log.read_text())
    assert bus.get("EntryCount") == 0
