"""Hostile archives, in a whole daemon: refused, with little memory, and nothing is left."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.archives import make_kheaders
from tests.support.needs import needs_root
from tests.support.running import Bus, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost
from tests.support.tar_shapes import a_huge_window_and_archive, files_with_a_large_window, long_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.slow,
    needs_root("the bus's policy lets only root own the name"),
]

# MiB, of all of the daemon: some 40 before, more with newer Pythons; the rest for the window and tables.
MOST_MEMORY = 112


@pytest.fixture
def cache() -> Iterator[Path]:
    """A place for 100,000 files, in memory where there is one: a disk can take minutes for them."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path) / "cache"


@pytest.mark.parametrize("make", [a_huge_window_and_archive, files_with_a_large_window, long_names])
def test_hostile_archives(
    bus: Bus, make_daemon: MakeDaemon, cache: Path, host: ServedHost, make: Callable[[], bytes]
) -> None:
    host.show(make())
    daemon = make_daemon(bus, root=host.root, cache=cache)
    answer = bus.call("GetHeaders", "sa{sv}", RELEASE, "0")
    assert isinstance(answer, Refused)
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) / 1024 <= MOST_MEMORY
    assert list(cache.glob(".staging-*")) == []
    host.show(make_kheaders(RELEASE))
    assert not isinstance(bus.call("GetHeaders", "sa{sv}", RELEASE, "0"), Refused)
