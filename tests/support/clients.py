"""Programs that use the daemon, for the tests of its whole life, and headers that take a while."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kheadersd.cli.client import plain
from kheadersd.dbus.codec import Variant
from kheadersd.dbus.connection import Connection, Signal
from tests.support.archives import make_kheaders
from tests.support.other_user import as_user, python_path
from tests.support.running import INTERFACE, NAME, OBJECT, REPOSITORY, Bus, Daemon

BIG_FILES = 6000
"""Files of a big archive, as many as a real one has; see `big_kheaders`."""

Values = list[Any]


@functools.cache
def big_kheaders(release: str, file_size: int = 5000) -> bytes:
    """An archive whose extraction takes some tenths of a second."""
    noise = random.Random(release).randbytes(1 << 16).hex().encode()
    return make_kheaders(
        release,
        {
            f"include/big/d{number // 100}/h{number}.h": noise[number * 16 :][:file_size]
            for number in range(BIG_FILES)
        },
    )


def wait_until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Look again and again, very often."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.0005)


async def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    """As `wait_until`, while the event loop runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


def usable(path: str) -> bool:
    """Whether there are headers."""
    return Path(path, "include/linux/kconfig.h").exists()


def used_two_hours_ago(daemon: Daemon) -> None:
    """Let a daemon that is not running find that no program was given an entry lately."""
    for record in daemon.cache.glob("*/entry.json"):
        os.utime(record, (time.time() - 7200, time.time() - 7200))


# Stages of an extraction, as the cache directory shows them


def staged(daemon: Daemon) -> list[Path]:
    return list(daemon.cache.glob(".staging-*"))


def staged_files(daemon: Daemon) -> int:
    """How many directories of a big archive have been begun, times a hundred."""
    return sum(100 for _ in daemon.cache.glob(".staging-*/tree/include/big/d*"))


def durable(daemon: Daemon) -> bool:
    return any(daemon.cache.glob("*/durable"))


def halt_when(daemon: Daemon, condition: Callable[[], object]) -> None:
    """Let the daemon stand still, with all its threads, as soon as something is so."""
    wait_until(condition)
    os.kill(daemon.pid, signal.SIGSTOP)
    wait_until(lambda: _states(daemon) == {"T"})


def go_on(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGCONT)


@contextlib.contextmanager
def halted(daemon: Daemon) -> Iterator[None]:
    """It stands still, so that it makes nothing in what is just being removed."""
    halt_when(daemon, lambda: True)
    yield
    go_on(daemon)


def _states(daemon: Daemon) -> set[str]:
    """Of its threads, as in proc(5)."""
    found = set()
    for status in Path(f"/proc/{daemon.pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            found.add(status.read_text().rpartition(")")[2].split()[0])
    return found


# Programs


@contextlib.contextmanager
def busctl_waits(bus: Bus, member: str = "GetHeaders", *options: str) -> Iterator[subprocess.Popen[str]]:
    """A program that has asked for headers and waits; it is ended afterwards."""
    command = ["busctl", f"--address={bus.address}", "--timeout=60", "call", NAME, OBJECT, INTERFACE]
    with subprocess.Popen(
        [*command, member, "sa{sv}", "", *(options or ("0",))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


class Ctl:
    """kheadersctl on a bus, as root or as another user.

    Args:
        prefix: a command that becomes kheadersctl.
    """

    def __init__(self, bus: Bus, user: str | None = None, prefix: Sequence[str] = ()) -> None:
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY) if user is None else python_path(),
            "PYTHONDONTWRITEBYTECODE": "1",
            "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
        }
        self._command = [*prefix, sys.executable, "-m", "kheadersd.cli"]
        if user is not None:
            self._command = [*as_user(user), *self._command]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs until the end of the ``with`` block, at the latest."""
        with subprocess.Popen(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def holds_a_lease(self) -> Iterator[subprocess.Popen[str]]:
        """A program that runs with a lease: ``kheadersctl exec``."""
        with self.started("exec", "--", "sh", "-c", "echo ready; read word") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process


class Client:
    """A program on the bus, which may ask for many things at once."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def call(self, member: str, signature: str = "", *values: Any) -> Values:
        answer = await self.connection.call(
            NAME, OBJECT, INTERFACE, member, signature, values, timeout=60, accept_fds=False
        )
        return [plain(value) for value in answer.values]

    async def get(self, release: str = "", **options: Variant) -> tuple[str, dict[str, Any]]:
        path, details = await self.call("GetHeaders", "sa{sv}", release, options)
        return path, details

    async def acquire(self, release: str = "", **options: Variant) -> tuple[str, int]:
        """The path and the lease, which is the caller's to close."""
        answer = await self.connection.call(
            NAME, OBJECT, INTERFACE, "Acquire", "sa{sv}", [release, options], timeout=60, accept_fds=True
        )
        path, index, _ = answer.values
        (lease,) = answer.fds
        assert index == 0
        return path, lease

    async def property(self, name: str) -> Any:
        answer = await self.connection.call(
            NAME, OBJECT, "org.freedesktop.DBus.Properties", "Get", "ss", [INTERFACE, name]
        )
        return plain(answer.values[0])


class Listener(Client):
    """A client that hears every signal of the daemon.

    Attributes:
        heard: when, the member and the values of each.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.heard: list[tuple[float, str, Values]] = []
        connection.on_signal(self._hear)

    def _hear(self, signal: Signal) -> None:
        if signal.path == OBJECT:
            self.heard.append((time.monotonic(), signal.member, plain(signal.args)))

    def of(self, member: str) -> list[Values]:
        return [values for _, heard, values in self.heard if heard == member]

    def changes(self, name: str) -> list[Any]:
        """The values that a property was announced to have."""
        return [changed[name] for _, changed, _ in self.of("PropertiesChanged") if name in changed]


@contextlib.asynccontextmanager
async def client_on(bus: Bus) -> AsyncIterator[Client]:
    connection = await Connection.open(bus.address)
    try:
        yield Client(connection)
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def listener_on(bus: Bus) -> AsyncIterator[Listener]:
    connection = await Connection.open(bus.address)
    try:
        listener = Listener(connection)
        await connection.add_match(f"type='signal',sender='{NAME}'")
        yield listener
    finally:
        await connection.close()
