"""The service manager's side of the socket, real."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.support.clients import wait_until
from tests.support.notify_socket import received
from tests.support.running import Bus, Daemon, MakeDaemon


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
