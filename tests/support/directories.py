"""Directories of their own kinds."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory for caches: on some file systems it takes long to make many files after removing some."""
    with for_all_users("kh-pch-", "/dev/shm" if os.path.isdir("/dev/shm") else None) as path:
        yield path


@pytest.fixture
def roots_own() -> Iterator[Path]:
    """A directory that is root's like all above it, unlike those of temporary files."""
    with made_for_root() as path:
        yield path


@contextlib.contextmanager
def made_for_root() -> Iterator[Path]:
    """As `roots_own`, where that is made more rarely than for each test."""
    with for_all_users("kheadersd-test-", "/srv") as path:
        yield path


@contextlib.contextmanager
def for_all_users(prefix: str, parent: str | None = None) -> Iterator[Path]:
    """A directory that every user can reach, and whose name is short: that of a socket has 107 characters."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        path.chmod(0o755)
        yield path
    finally:
        shutil.rmtree(path)
