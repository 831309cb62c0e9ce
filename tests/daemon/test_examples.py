"""The example clients: with a daemon they hold a lease, without one they go on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kheadersd.dbus.codec import LIBRARY
from tests.support.running import REPOSITORY, Bus, Daemon

EXAMPLES = REPOSITORY / "examples"

Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["c", "python"])
def client(request: pytest.FixtureRequest, tmp_path: Path, bus: Bus) -> Client:
    """Runs one of the clients with arguments."""
    if request.param == "c":
        program = tmp_path / "headers"
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "libsystemd"], capture_output=True, text=True, check=True
        ).stdout.split()
        source = EXAMPLES / "headers.c"
        subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-o", program, source, *flags], check=True)
        command = [str(program)]
    else:
        if LIBRARY != "dbus_next":
            pytest.skip("the example uses dbus-next, which this Python does not import")
        command = [sys.executable, str(EXAMPLES / "headers.py")]

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address}
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_a_command_has_headers_and_holds_the_lease(client: Client, daemon: Daemon) -> None:
    leases = f"busctl --address={daemon.bus.address} call org.kheaders.Provide /org/kheaders/Provide"
    script = f'ls "$KERNEL_HEADERS/include/linux/kconfig.h"; {leases} org.kheaders.Provide ListLeases'
    done = client("sh", "-c", script)
    assert done.stderr == ""
    path, header, listed = done.stdout.splitlines()
    assert Path(path) == daemon.cache / daemon.entries()[0] / "tree"
    assert header == f"{path}/include/linux/kconfig.h"
    assert listed.startswith("a(ssuus) 1 ")
    assert '"headers.' in listed


def test_no_daemon(client: Client, bus: Bus) -> None:
    done = client()
    assert done.returncode == 0
    assert done.stdout == f"/lib/modules/{os.uname().release}/build\n"
    assert done.stderr.startswith("headers: no headers from kheadersd: ")


def test_no_bus(client: Client, bus: Bus) -> None:
    bus.stop()
    done = client()
    assert (done.returncode, done.stdout) == (0, f"/lib/modules/{os.uname().release}/build\n")
    assert done.stderr.startswith("headers: no headers from kheadersd: ")


def test_no_headers(client: Client, daemon: Daemon, host: object) -> None:
    daemon.stop()
    (daemon.root / "sys/kernel/kheaders.tar.xz").unlink()
    daemon.start()
    done = client()
    assert (done.returncode, done.stdout) == (0, f"/lib/modules/{os.uname().release}/build\n")
    assert "no source has" in done.stderr.lower()
