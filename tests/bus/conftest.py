"""A real message bus with a small configuration, and the test service on it, with either D-Bus library."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.libraries import without_dbus_next

from .raw import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
ROOT = TESTS.parent.parent

_CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*" eavesdrop="false"/>
  </policy>
  <limit name="max_message_size">134217728</limit>
  <limit name="max_replies_per_connection">50000</limit>
  <limit name="max_connections_per_user">1000</limit>
</busconfig>
"""


@dataclasses.dataclass
class Bus:
    """A dbus-daemon of our own."""

    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """A real bus on a private socket, which anybody may use."""
    socket = tmp_path / "bus"
    configuration = tmp_path / "bus.conf"
    configuration.write_text(_CONFIGURATION.format(socket=socket))
    command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield Bus(socket, process)
        finally:
            process.kill()


@dataclasses.dataclass
class Service:
    """The test service as a process."""

    process: subprocess.Popen[str]
    log: Path
    library: str

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident(self) -> int:
        """Resident memory, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("the service is gone")

    def end(self) -> str:
        """Have it end, if it has not; return its last words."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        words = self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait(10)
        return words


@pytest.fixture(params=["dbus_next", "dbus_fast"])
def library_path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A library's name, and a PYTHONPATH with which it is the one that gets imported."""
    library = str(request.param)
    return library, path_for(library, tmp_path)


def path_for(library: str, tmp_path: Path) -> str:
    """A PYTHONPATH for this project with which the library is the one that gets imported."""
    if library == "dbus_next":
        return str(ROOT)
    return f"{without_dbus_next(tmp_path / 'hidden')}{os.pathsep}{ROOT}"


@pytest.fixture
def service(bus: Bus, library_path: tuple[str, str], tmp_path: Path) -> Iterator[Service]:
    """The test service on the bus."""
    library, path = library_path
    log = tmp_path / "service.log"
    command = [sys.executable, str(TESTS / "service.py"), bus.address]
    environment = {**os.environ, "PYTHONPATH": path}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, text=True
        ) as process,
    ):
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words, log.read_text()
        assert words == ["ready", str(process.pid), library]
        running = Service(process, log, library)
        try:
            yield running
        finally:
            if process.poll() is None and not process.stdout.closed:
                assert running.end() == "closed '' 0 tasks\n"


@pytest.fixture
def client(bus: Bus, service: Service) -> Iterator[RawClient]:
    """A raw client on the bus where the service is."""
    assert service.process.poll() is None
    raw = RawClient(bus.socket)
    yield raw
    raw.close()
