"""A repository of rpm packages, and a host configured for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.release import Release
from tests.support.directories import for_all_users
from tests.support.packages import two_keys
from tests.support.rpm_repository import RpmHost, RpmKey, RpmRepository, rpm_served

RELEASE = Release("6.1.99-200.fc37.x86_64")


@pytest.fixture(scope="session")
def rpm_keys() -> Iterator[tuple[RpmKey, RpmKey]]:
    """Two keys, of which a host trusts the first."""
    with two_keys(RpmKey) as keys:
        yield keys


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    with for_all_users("kh-rpm-") as path:
        yield path


@pytest.fixture
def repository(directory: Path, rpm_keys: tuple[RpmKey, RpmKey]) -> Iterator[RpmRepository]:
    with rpm_served(directory / "repository", rpm_keys[0]) as repository:
        yield repository


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory, rpm_keys: tuple[RpmKey, RpmKey]) -> Path:
    """The signed package of `RELEASE`."""
    with rpm_served(tmp_path_factory.mktemp("rpm") / "repository", rpm_keys[0]) as repository:
        return repository.add_kernel(RELEASE)


@pytest.fixture
def published(repository: RpmRepository, kernel: Path) -> RpmRepository:
    """A repository with that package."""
    shutil.copy(kernel, repository.directory)
    repository.publish()
    return repository


@pytest.fixture
def rpm_host(directory: Path, repository: RpmRepository) -> RpmHost:
    return RpmHost(directory / "root", repository)


@pytest.fixture
def work(directory: Path) -> Path:
    return directory / "cache" / ".packages"
