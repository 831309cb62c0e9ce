"""A repository, and a host configured for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.apt_repository import AptHost, Key, Repository, served
from tests.support.directories import for_all_users

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def key() -> Iterator[Key]:
    # Not pytest's directory: a socket's name has at most 107 characters, and apt's own user reads the key.
    with for_all_users("kh-key-") as directory:
        key = Key(directory)
        yield key
        key.close()


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every user can reach."""
    with for_all_users("kh-package-") as path:
        yield path


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
