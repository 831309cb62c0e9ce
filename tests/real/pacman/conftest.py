"""A repository for pacman, and a host configured for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.release import Release
from tests.support.directories import for_all_users
from tests.support.packages import two_keys
from tests.support.pacman_repository import PacmanHost, PacmanKey, PacmanRepository, headers_of, pacman_served

RELEASE = Release("6.9.1-arch1-1")
VERSION = "6.9.1.arch1-1"


@pytest.fixture(scope="session")
def pacman_keys() -> Iterator[tuple[PacmanKey, PacmanKey]]:
    """Two keys, of which a host trusts the first."""
    with two_keys(PacmanKey) as keys:
        yield keys


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    with for_all_users("kh-pacman-") as path:
        yield path


@pytest.fixture
def repository(directory: Path, pacman_keys: tuple[PacmanKey, PacmanKey]) -> Iterator[PacmanRepository]:
    with pacman_served(directory / "repository", pacman_keys[0]) as repository:
        yield repository


@pytest.fixture
def published(repository: PacmanRepository) -> PacmanRepository:
    """A repository with the package of `RELEASE`."""
    repository.add("linux-headers", VERSION, headers_of(RELEASE))
    repository.publish()
    return repository


@pytest.fixture
def pacman_host(directory: Path, repository: PacmanRepository) -> PacmanHost:
    return PacmanHost(directory / "root", repository)


@pytest.fixture
def work(directory: Path) -> Path:
    return directory / "cache" / ".packages"
