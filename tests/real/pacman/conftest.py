"""A repository for pacman, and a host configured for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.release import Release
from tests.support.pacman_repository import PacmanHost, PacmanKey, PacmanRepository, headers_of, pacman_served

RELEASE = Release("6.9.1-arch1-1")
VERSION = "6.9.1.arch1-1"


@pytest.fixture(scope="session")
def pacman_keys() -> Iterator[tuple[PacmanKey, PacmanKey]]:
    """Two keys, of which a host trusts the first."""
    # Not pytest's directory: a socket's name has at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="kh-key-"))
    directory.chmod(0o755)
    keys = (PacmanKey(directory), PacmanKey(directory, "other"))
    yield keys
    for key in keys:
        key.close()
    shutil.rmtree(directory)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp(prefix="kh-pacman-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


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
