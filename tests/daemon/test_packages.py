"""Headers packages of rpm and pacman, with real headers, in a whole daemon."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.directories import for_all_users
from tests.support.kheaders import RealHeaders
from tests.support.needs import needs_root
from tests.support.packages import left_in
from tests.support.pacman_repository import PacmanHost, PacmanKey, pacman_served
from tests.support.real_packages import real_pacman_package, real_rpm
from tests.support.rpm_repository import RpmHost, RpmKey, rpm_served
from tests.support.running import Bus, Daemon, MakeDaemon, Refused

pytestmark = [pytest.mark.slow, needs_root("the bus's policy lets only root own the name")]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Not pytest's: a socket's name, gpg's, has at most 107 characters."""
    with for_all_users("kh-packages-") as path:
        yield path


def ask(bus: Bus, release: str) -> Any:
    return bus.call("GetHeaders", "sa{sv}", release, "1", "sources", "as", "1", "package")


def check(bus: Bus, daemon: Daemon, release: str, origin: str) -> None:
    """The real headers are served, another release has a reason, and nothing is left of either."""
    answer = ask(bus, release)
    assert not isinstance(answer, Refused), answer
    path, details = answer
    assert details["source"] == "package"
    assert (Path(path) / "include/linux/sched.h").stat().st_size > 0
    assert release in (Path(path) / "include/generated/utsrelease.h").read_text()
    assert origin in str(bus.call("Describe"))
    refused = ask(bus, "6.1.0-1.none")
    assert isinstance(refused, Refused)
    assert "ExtraRepositories=" in refused.message
    assert left_in(daemon.cache) == []


def test_rpm(bus: Bus, make_daemon: MakeDaemon, directory: Path, real_headers: RealHeaders) -> None:
    release = "6.1.0-1.test.x86_64"
    package = real_rpm(real_headers, release)
    key = RpmKey(directory)
    with rpm_served(directory / "repository", key) as repository:
        key.sign(Path(shutil.copy(package, repository.directory)))
        repository.publish()
        host = RpmHost(directory / "root", repository)
        check(bus, make_daemon(bus, root=host.root), release, "kernel-devel 6.1.0-1.test")
    key.close()


def test_pacman(bus: Bus, make_daemon: MakeDaemon, directory: Path, real_headers: RealHeaders) -> None:
    release, version = "6.1.0-arch1-1", "6.1.arch1-1"
    package = real_pacman_package(real_headers, release, version)
    key = PacmanKey(directory)
    with pacman_served(directory / "repository", key) as repository:
        key.sign(Path(shutil.copy(package, repository.directory)))
        repository.publish()
        host = PacmanHost(directory / "root", repository)
        check(bus, make_daemon(bus, root=host.root), release, f"linux-headers {version}")
    key.close()
