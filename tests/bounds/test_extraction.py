"""Extraction within its memory, of archives that are made to need much, in processes of their own."""

from __future__ import annotations

import lzma
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.archives import (
    tree_tar,
)
from tests.support.running import REPOSITORY
from tests.support.tar_shapes import (
    a_huge_window,
    a_huge_window_and_archive,
    chained_links,
    deep_names,
    directories,
    files_with_a_large_window,
    large_attributes,
    links,
    long_names,
    long_targets,
    wide_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.slow

MOST_MEMORY = 96 * 1024  # KiB


# Extracts, and does with the manifest what becomes of it later. Prints by how much the process grew, in KiB.
CHILD = """
import pathlib, sys
from tests.support.extracting import extract_to
from kheadersd.errors import Corrupt
from kheadersd.cache.manifest import Manifest, compare
from kheadersd.system.malloc import keep_little

def peak():
    return int(pathlib.Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

import hashlib, lzma, zlib
keep_little()
archive, tree = map(pathlib.Path, sys.argv[1:])
before = peak()
try:
    data = archive.read_bytes()
    encoded = extract_to(tree, data).manifest.encode()
    del data
    assert compare(tree, Manifest.decode(encoded)) == []
    outcome = "extracted"
except Corrupt as error:
    outcome = error.message
print(peak() - before, outcome)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for 100,000 files, in memory where there is one: a disk takes a minute to remove them."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path)


def python(program: str, *arguments: Path) -> str:
    """What a program prints that has all of the tests' helpers."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("make", "outcome"),
    [
        (long_names, "all names together have more than"),
        (long_targets, "all names together have more than"),
        (wide_names, "all names together have more than"),
        (deep_names, "all names together have more than"),
        (directories, "extracted"),
        (links, "extracted"),
        (chained_links, "leads in circles"),
        (large_attributes, "bytes of attributes in all"),
        (files_with_a_large_window, "extracted"),
        (a_huge_window, "needs too much memory"),
        (a_huge_window_and_archive, "extracted"),
    ],
)
def test_memory(directory: Path, make: Callable[[], bytes], outcome: str) -> None:
    archive = directory / "a.tar.xz"
    archive.write_bytes(make())
    printed = python(CHILD, archive, directory / "tree")
    shutil.rmtree(directory / "tree")
    grown, _, found = printed.partition(" ")
    assert outcome in found
    assert int(grown) <= MOST_MEMORY


def test_a_real_archive_needs_little_memory(tmp_path: Path) -> None:
    # 32 MB of a tar archive with an 8 MiB dictionary, compressed to about 4 MB, as the kernel's own.
    generator = random.Random(3)
    files = {
        f"include/generated/{number // 100}/{number}.h": generator.randbytes(600)
        + b"#define SOMETHING 1\n" * 180
        for number in range(6400)
    }
    archive = tmp_path / "kheaders.tar.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 8 * 1024 * 1024}]
    archive.write_bytes(lzma.compress(tree_tar(files), filters=filters))
    program = (
        "import pathlib, sys; from tests.support.extracting import extract_to\n"
        f"extract_to(pathlib.Path({str(tmp_path / 'tree')!r}), pathlib.Path({str(archive)!r}).read_bytes())\n"
        "status = pathlib.Path('/proc/self/status').read_text()\n"
        "print(status.split('VmHWM:')[1].split()[0])"
    )
    assert int(python(program)) <= 48 * 1024
