"""A file system without room: refused in advance or half-way, nothing left, and the daemon serves on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import make_kheaders
from tests.support.clients import big_kheaders, wait_until
from tests.support.hosts import make_module
from tests.support.needs import needs_root
from tests.support.running import Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = [
    pytest.mark.slow,
    needs_root("mounting a small file system needs root"),
]

NO_SPACE = "org.kheaders.Provide.Error.NoSpace"


class Disk:
    """A small file system in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"mode=755,{options}", "tmpfs", str(self.directory)]
        subprocess.run(command, check=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.directory], check=True)

    def used(self) -> tuple[int, int]:
        """Bytes and inodes."""
        status = os.statvfs(self.directory)
        return (status.f_blocks - status.f_bfree) * status.f_frsize, status.f_files - status.f_ffree


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    directory = tmp_path / "disk"
    directory.mkdir()
    yield Disk(directory)
    subprocess.run(["umount", directory], check=True)


def serves(bus: Bus) -> None:
    answer = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert not isinstance(answer, Refused), answer
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]


def assert_full(bus: Bus, daemon: Daemon, disk: Disk, *words: str) -> None:
    """A request is refused and leaves nothing."""
    before = disk.used()
    refused = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert isinstance(refused, Refused)
    for word in words:
        assert word in refused.message
    assert "make room" in refused.message or "free" in refused.message
    assert bus.get("LastError") == [NO_SPACE, refused.message]
    assert bus.get("Activity") == "idle"
    assert daemon.leftovers() == daemon.entries() == []
    assert disk.used() == before


def test_too_large_is_known_in_advance(
    bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon
) -> None:
    disk.mount("size=8m")
    host.show(big_kheaders(RELEASE))
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    assert_full(bus, daemon, disk, "the headers need")
    disk.remount("size=80m")
    serves(bus)


def test_full_half_way(bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon) -> None:
    # 6,000 files of 100 bytes: 6 MB in the archive and 24 MB in blocks of 4096.
    disk.mount("size=12m")
    host.show(big_kheaders(RELEASE, 100))
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    assert_full(bus, daemon, disk, "writing 'include/big/", "bytes were written")
    assert_full(bus, daemon, disk, "writing 'include/big/")
    disk.remount("size=80m")
    serves(bus)


@pytest.mark.parametrize("inodes", [2, 3, 4, 20, 6060])
def test_out_of_inodes(bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon, inodes: int) -> None:
    disk.mount(f"size=80m,nr_inodes={inodes}")
    host.show(big_kheaders(RELEASE, 100))
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    assert_full(bus, daemon, disk)
    disk.remount("nr_inodes=20000")
    serves(bus)


def test_room_for_the_tree_and_not_for_its_record(
    bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon
) -> None:
    """The last files are the manifest and the record: without them there is no entry."""
    disk.mount("size=1m,nr_inodes=1000")
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    serves(bus)
    needed = disk.used()[1]
    bus.call("Remove", "sa{sv}", "", "0")
    # All but the durable mark, the record, the manifest.
    for spare in (2, 3):
        disk.remount(f"nr_inodes={needed - spare}")
        assert_full(bus, daemon, disk)
    # Without room for the mark alone the headers are good; after a boot they will be looked at again.
    disk.remount(f"nr_inodes={needed - 1}")
    serves(bus)
    disk.remount("nr_inodes=1000")
    serves(bus)


def test_a_full_disk_does_not_hurt_what_is_there(
    bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon
) -> None:
    disk.mount("size=8m")
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    serves(bus)
    entries = daemon.entries()
    host.show(big_kheaders(RELEASE))
    refused = bus.call("GetHeaders", "sa{sv}", "", "1", "refresh", "b", "true")
    assert isinstance(refused, Refused)
    assert daemon.entries() == entries
    assert daemon.leftovers() == []
    host.show(make_kheaders(RELEASE))
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is False
    serves(bus)


def test_a_full_disk_and_leases(bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon) -> None:
    disk.mount("size=8m,nr_inodes=1000")
    make_daemon(bus, root=host.root, cache=disk.directory)
    serves(bus)
    disk.remount(f"nr_inodes={disk.used()[1]}")
    refused = bus.call("Acquire", "sa{sv}", "", "0")
    assert isinstance(refused, Refused)
    assert "cannot make a lease" in refused.message
    assert bus.get("LeaseCount") == 0
    serves(bus)


def test_a_read_only_file_system(bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon) -> None:
    disk.mount("size=8m")
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    disk.remount("ro")
    refused = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert isinstance(refused, Refused)
    assert "Read-only file system" in refused.message
    assert str(disk.directory) in refused.message
    disk.remount("rw")
    serves(bus)
    disk.remount("ro")
    # What is there can be had, and a restart changes nothing.
    serves(bus)
    assert daemon.stop() == 0
    daemon.start()
    serves(bus)


def test_what_cannot_be_removed_stays(
    bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """In memory and on the disk; and the caller hears of it."""
    disk.mount("size=8m")
    config = tmp_path / "kheadersd.conf"
    config.write_text("")
    old = host.modules.with_name("6.0.0-old")
    old.mkdir()
    place = old / "kernel/kernel"
    place.mkdir(parents=True)
    (place / "kheaders.ko").write_bytes(make_module(make_kheaders(old.name), f"{old.name} SMP"))
    daemon = make_daemon(bus, root=host.root, cache=disk.directory, arguments=[f"--config={config}"])
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    wait_until(lambda: bus.get("EntryCount") == 2)  # that of the other kernel is made ahead
    wait_until(lambda: len(list(disk.directory.glob("*/durable"))) == 2)
    before = (bus.get("EntryCount"), bus.get("CacheBytes"), daemon.entries())
    disk.remount("ro")
    for options in (("0",), ("1", "force", "b", "true")):
        refused = bus.call("Remove", "sa{sv}", "", *options)
        assert isinstance(refused, Refused)
        assert "cannot remove" in refused.message
        assert "Read-only file system" in refused.message
    refused = bus.call("GetHeaders", "sa{sv}", "", "1", "refresh", "b", "true")
    assert isinstance(refused, Refused)
    # What is retired because its kernel is gone, and what the policy does not let stay.
    shutil.rmtree(old)
    wait_until(lambda: "Read-only file system" in daemon.log.read_text())
    config.write_text("[Cache]\nMaxEntries=0\n")
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: json.loads(bus.call("Describe")[0])["retention"]["max_entries"] == 0)
    refused = bus.call("Prune", "a{sv}", "0")
    assert isinstance(refused, Refused)
    assert f"cannot remove {disk.directory}" in refused.message
    assert (bus.get("EntryCount"), bus.get("CacheBytes"), daemon.entries()) == before
    assert bus.call("Lookup", "s", "")[0] == path
    disk.remount("rw")
    assert bus.call("Prune", "a{sv}", "0")[0] == [old.name]
    assert bus.call("Remove", "sa{sv}", "", "0")[0] > 0
    assert daemon.entries() == daemon.leftovers() == []


def test_what_can_be_removed_in_part_is_counted(
    bus: Bus, host: ServedHost, disk: Disk, make_daemon: MakeDaemon
) -> None:
    """As with an immutable file; here it is one that something is mounted on."""
    disk.mount("size=8m")
    daemon = make_daemon(bus, root=host.root, cache=disk.directory)
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    header = Path(path, "include/linux/types.h")
    subprocess.run(["mount", "--bind", header, header], check=True)
    try:
        refused = bus.call("Remove", "sa{sv}", "", "0")
        assert isinstance(refused, Refused)
        assert "types.h: Device or resource busy" in refused.message
        assert bus.get("CacheBytes") > 0
        (described,) = json.loads(bus.call("Describe")[0])["cache"]["leftovers"]
        assert described["stays"] == "not removed"
        assert isinstance(bus.call("Prune", "a{sv}", "0"), Refused)
        (trash,) = disk.directory.glob(".trash-*")
        assert "Cleared" not in daemon.log.read_text()
    finally:
        subprocess.run(["umount", *disk.directory.glob(".trash-*/tree/include/linux/types.h")], check=True)
    assert trash.exists()
    assert bus.call("Prune", "a{sv}", "0")[1] > 0
    assert (bus.get("CacheBytes"), daemon.leftovers()) == (0, [])
