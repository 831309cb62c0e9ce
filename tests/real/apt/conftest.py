"""A repository, and a host configured for it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.apt_repository import AptHost, Key, Repository, served

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def key() -> Iterator[Key]:
    # Not pytest's directory: a socket's name has at most 107 characters, and apt's own user reads the key.
    directory = Path(tempfile.mkdtemp(prefix="kh-key-"))
    directory.chmod(0o755)
    key = Key(directory)
    yield key
    key.close()
    shutil.rmtree(directory)


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    path = Path(tempfile.mkdtemp(prefix="kh-package-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def repository(directory: Path, key: Key) -> Iterator[Repository]:
    with served(directory / "repository", key) as repository:
        yield repository


@pytest.fixture
def apt_host(directory: Path, repository: Repository) -> AptHost:
    return AptHost(directory / "root", repository)


@pytest.fixture
def work(directory: Path) -> Path:
    return directory / "cache" / ".packages"
