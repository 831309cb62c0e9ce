"""A repository as openSUSE has them, and a host configured for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.release import Release
from tests.support.directories import for_all_users
from tests.support.gnupg import end_agents
from tests.support.packages import two_keys
from tests.support.rpm_repository import RpmKey
from tests.support.suse_repository import SuseHost, SuseRepository, programs, suse_served

_VAR_TMP = Path("/var/tmp")  # where libzypp works, whatever TMPDIR says

VERSION = "6.4.0-150600.23.47"
RELEASE = Release(f"{VERSION}-default")


@pytest.fixture(autouse=True)
def zypper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have zypper found, and run although the tests have no unit for it."""
    monkeypatch.setenv("PATH", f"{programs()}:{os.environ['PATH']}")
    monkeypatch.setattr("kheadersd.sources.suse.is_network_confined", lambda: True)


@pytest.fixture(autouse=True)
def nothing_of_zypper() -> Iterator[None]:
    """Remove what a zypper that was killed leaves, with an agent of GnuPG's; of a unit, it goes with that."""
    before = set(_VAR_TMP.glob("zypp.*"))
    yield
    for left in set(_VAR_TMP.glob("zypp.*")) - before:
        for home in left.glob("zypp-*"):
            end_agents(home)
        shutil.rmtree(left)


@pytest.fixture(scope="session")
def rpm_keys() -> Iterator[tuple[RpmKey, RpmKey]]:
    """Two keys, of which a host trusts the first."""
    with two_keys(RpmKey) as keys:
        yield keys


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    with for_all_users("kh-zy-") as path:
        yield path


@pytest.fixture
def repository(directory: Path, rpm_keys: tuple[RpmKey, RpmKey]) -> Iterator[SuseRepository]:
    with suse_served(directory / "repository", rpm_keys[0]) as repository:
        yield repository


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory, rpm_keys: tuple[RpmKey, RpmKey]) -> list[Path]:
    """The signed packages of `RELEASE`."""
    with suse_served(tmp_path_factory.mktemp("suse") / "repository", rpm_keys[0]) as repository:
        return repository.add_kernel(VERSION)


@pytest.fixture
def published(repository: SuseRepository, kernel: list[Path]) -> SuseRepository:
    """A repository with these packages."""
    for package in kernel:
        shutil.copy(package, repository.directory)
    repository.publish()
    return repository


@pytest.fixture
def suse_host(directory: Path, repository: SuseRepository) -> SuseHost:
    return SuseHost(directory / "root", repository)


@pytest.fixture
def work(directory: Path) -> Path:
    return directory / "cache" / ".packages"
