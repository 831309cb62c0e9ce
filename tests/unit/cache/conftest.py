from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kheadersd.cache.cache import Cache
from kheadersd.cache.leases import Leases
from tests.support.made_up_lifecycle import MadeUp, empty_host
from tests.support.threads import at_work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No descriptor and no thread may survive a test."""
    before = os.listdir("/proc/self/fd")
    threads = at_work()
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    assert at_work() <= threads


@pytest.fixture
def directory() -> Iterator[Path]:
    """Where a cache can be, on a file system in memory if there is one."""
    parent = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield parent / "cache"
    shutil.rmtree(parent)


@pytest.fixture
def cache(directory: Path) -> Iterator[Cache]:
    cache = Cache(directory)
    cache.open()
    yield cache
    cache.close()


@pytest.fixture
def small_disk(directory: Path) -> Iterator[Path]:
    """A file system of 512 KiB with 100 inodes."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a small file system is mounted")
    directory.mkdir()
    mount = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=512k,nr_inodes=100,mode=0755",
        "kheadersd-test",
        str(directory),
    ]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
async def made_up(cache: Cache, tmp_path: Path) -> AsyncIterator[MadeUp]:
    def on_change() -> None:
        found.lifecycle.on_leases_changed()

    leases = Leases(cache.directory / ".leases", on_change=on_change)
    found = MadeUp(cache, leases, empty_host(tmp_path / "host"))
    yield found
    await found.lifecycle.close()
    leases.close()
