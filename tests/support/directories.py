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
    path = Path(tempfile.mkdtemp(prefix="kh-pch-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def roots_own() -> Iterator[Path]:
    """A directory that is root's like all above it, unlike those of temporary files."""
    with made_for_root() as path:
        yield path


@contextlib.contextmanager
def made_for_root() -> Iterator[Path]:
    """As `roots_own`, where that is made more rarely than for each test."""
    path = Path(tempfile.mkdtemp(prefix="kheadersd-test-", dir="/srv"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
