"""kheadersctl as a user runs it, and what it talks to: a private bus with the service of canned answers."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.bus_configuration import bus_configuration
from tests.support.running import REPOSITORY

_RULES = """\
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
    <allow eavesdrop="false"/>
  </policy>
"""


class Ctl:
    """Runs kheadersctl against one bus."""

    def __init__(self, address: str) -> None:
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "DBUS_SYSTEM_BUS_ADDRESS": address,
            "PYTHONMALLOC": "debug",
            "TZ": "UTC",
        }
        # All of Python's development mode but asyncio's, which complains on stderr of a machine that is busy.
        self.command = [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "kheadersd.cli"]

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.command, *arguments],
            env=self.environment,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=30,
            check=False,
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_terminal(self, *arguments: str) -> tuple[int, str]:
        """Run with a terminal for everything; the exit code and what it showed."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*self.command, *arguments], env=self.environment, stdin=theirs, stdout=theirs, stderr=theirs
        ) as child:
            os.close(theirs)
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the last one has closed it
                while select.select([ours], [], [], 20)[0] and (data := os.read(ours, 4096)):
                    shown += data
            os.close(ours)
            return child.wait(20), shown.decode()


class Service:
    """The service of canned answers, and what it says."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.process = process
        self.output = process.stdout

    def next_line(self) -> str:
        assert not self.is_silent(10), "the service said nothing"
        return self.output.readline().strip()

    def is_silent(self, seconds: float = 0.3) -> bool:
        return not select.select([self.output], [], [], seconds)[0]


@contextlib.contextmanager
def private_bus(directory: Path) -> Iterator[str]:
    """A bus with nobody on it; its address."""
    socket = directory / "socket"
    (directory / "bus.conf").write_text(bus_configuration(socket, _RULES))
    command = ["dbus-daemon", f"--config-file={directory}/bus.conf", "--nofork", "--nopidfile", "--nosyslog"]
    with subprocess.Popen(command) as daemon:
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert time.monotonic() < deadline, "dbus-daemon did not start"
                time.sleep(0.02)
            yield f"unix:path={socket}"
        finally:
            daemon.terminate()


@contextlib.contextmanager
def canned_service(bus: str) -> Iterator[Service]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.support.canned_service", bus]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            service = Service(process)
            assert service.next_line() == "ready"
            yield service
        finally:
            process.terminate()
