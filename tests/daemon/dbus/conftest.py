"""A real message bus with a small configuration, and the test service on it, with either D-Bus library."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.bus_configuration import bus_configuration
from tests.support.dbus_rig import BUS_RULES, Bus, Service, path_for
from tests.support.raw import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """A real bus on a private socket, which every user may use."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid():
            directory.chmod(directory.stat().st_mode | 0o011)
    socket = tmp_path / "bus"
    configuration = tmp_path / "bus.conf"
    configuration.write_text(bus_configuration(socket, BUS_RULES))
    command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield Bus(socket, process)
        finally:
            process.kill()


@pytest.fixture(params=["dbus_next", "dbus_fast"])
def library_path(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A library's name, and a PYTHONPATH with which it is the one that gets imported."""
    library = str(request.param)
    return library, path_for(library, tmp_path)


@pytest.fixture
def service(bus: Bus, library_path: tuple[str, str], tmp_path: Path) -> Iterator[Service]:
    """The test service on the bus."""
    library, path = library_path
    log = tmp_path / "service.log"
    command = [sys.executable, "-m", "tests.support.dbus_service", bus.address]
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
