"""Leases from outside: who holds them, how they end, and what they keep from leaving."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from kheadersd.dbus.codec import Variant
from kheadersd.dbus.errors import BusError
from tests.support.archives import kheaders_files, make_kheaders
from tests.support.clients import (
    Client,
    Ctl,
    client_on,
    eventually,
    halted,
    listener_on,
    usable,
    used_two_hours_ago,
    wait_until,
)
from tests.support.needs import needs_root
from tests.support.running import Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = pytest.mark.slow

IN_USE = "org.kheaders.Provide.Error.InUse"
LIMITS_EXCEEDED = "org.freedesktop.DBus.Error.LimitsExceeded"


async def remove(client: Client, *, force: bool = False) -> int:
    options = {"force": Variant("b", True)} if force else {}
    (freed,) = await client.call("Remove", "sa{sv}", "", options)
    return int(freed)


async def refused(client: Client, name: str) -> None:
    with pytest.raises(BusError) as caught:
        await remove(client)
    assert caught.value.name == name


async def test_a_lease_is_seen_and_ends_with_its_descriptor(bus: Bus, daemon: Daemon) -> None:
    assert daemon.entries() == []
    async with listener_on(bus) as listener, client_on(bus) as client:
        path, lease = await client.acquire(reason=Variant("s", "a test"))
        assert usable(path)
        assert await listener.call("ListLeases") == [
            [[RELEASE, client.connection.unique_name, os.getuid(), os.getpid(), "a test"]]
        ]
        await refused(client, IN_USE)
        copy = os.dup(lease)
        os.close(lease)
        await asyncio.sleep(0.1)
        assert await client.property("LeaseCount") == 1, "a copy of it is open"
        os.close(copy)
        await eventually(lambda: listener.changes("LeaseCount") == [1, 0])
        assert await client.call("ListLeases") == [[]]
        assert await remove(client) > 0
    assert daemon.leftovers() == []


async def test_a_lease_does_not_end_with_the_connection(bus: Bus, daemon: Daemon) -> None:
    assert daemon.entries() == []
    async with client_on(bus) as other:
        async with client_on(bus) as client:
            _, lease = await client.acquire()
        await asyncio.sleep(0.1)
        await refused(other, IN_USE)
        os.close(lease)
        await eventually(lambda: os.listdir(daemon.cache / ".leases") == [])
        assert await remove(other) > 0


async def test_two_leases_on_one_entry(bus: Bus, daemon: Daemon) -> None:
    async with client_on(bus) as client:
        (one, first), (other, second) = [await client.acquire() for _ in range(2)]
        assert one == other
        os.close(first)
        await eventually(lambda: len(os.listdir(daemon.cache / ".leases")) == 2)
        await refused(client, IN_USE)
        os.close(second)


def test_a_holder_is_killed(bus: Bus, daemon: Daemon) -> None:
    descriptors = daemon.descriptors()
    with Ctl(bus).holds_a_lease() as holder:
        assert bus.get("LeaseCount") == 1
        holder.kill()
        holder.wait()
        wait_until(lambda: bus.get("LeaseCount") == 0)
    wait_until(lambda: daemon.descriptors() <= descriptors)
    assert bus.call("Remove", "sa{sv}", "", "0")[0] > 0


def test_a_child_inherits_the_lease(bus: Bus, daemon: Daemon) -> None:
    with Ctl(bus).started("exec", "--", "sh", "-c", "sleep 60 & echo $!; wait") as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
        assert isinstance(bus.call("Remove", "sa{sv}", "", "0"), Refused)
        assert bus.get("LeaseCount") == 1
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: bus.get("LeaseCount") == 0)
    assert bus.call("Remove", "sa{sv}", "", "0")[0] > 0
    assert daemon.leftovers() == []


async def test_force_removes_what_is_leased(bus: Bus, daemon: Daemon) -> None:
    async with client_on(bus) as client, listener_on(bus) as listener:
        path, lease = await client.acquire()
        assert await remove(client, force=True) > 0
        assert not usable(path)
        assert daemon.entries() == daemon.leftovers() == []
        assert await client.property("LeaseCount") == 1
        assert listener.of("EntryRemoved") == [[RELEASE, path, "requested"]]
        # What is made anew has the same name, and the lease keeps that too.
        assert (await client.get())[0] == path
        await refused(client, IN_USE)
        os.close(lease)
        await eventually(lambda: os.listdir(daemon.cache / ".leases") == [])
        assert await remove(client) > 0


async def test_files_of_a_holder_stay_until_the_lease_ends(bus: Bus, daemon: Daemon) -> None:
    """A refreshed entry takes the name of the old one, in which a program can have a directory open."""
    async with client_on(bus) as client:
        path, lease = await client.acquire()
        inside = os.open(path, os.O_DIRECTORY)
        try:
            assert (await client.get(refresh=Variant("b", True)))[0] == path
            assert os.fstat(inside).st_ino != os.stat(path).st_ino
            for name in kheaders_files(RELEASE):
                os.stat(name, dir_fd=inside)
            os.close(lease)
            await eventually(lambda: not list(daemon.cache.glob(".trash-*")))
            assert os.listdir(inside) == []
        finally:
            os.close(inside)
        assert await client.call("Verify", "sa{sv}", "", {}) == [True, []]


async def test_a_tree_in_place_is_leased_too(bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    tree = host.root / "usr/src/linux-headers-test"
    for name, content in kheaders_files(RELEASE).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (host.modules / "build").symlink_to("/usr/src/linux-headers-test")
    async with client_on(bus) as client:
        path, lease = await client.acquire()
        assert path == str(tree)
        assert await client.property("LeaseCount") == 1
        os.close(lease)
        await eventually(lambda: os.listdir(daemon.cache / ".leases") == [])


async def test_prune_leaves_what_is_leased(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Cache]\nMaxEntries=0\n")
    daemon = make_daemon(bus, root=host.root, arguments=[f"--config={config}"])
    async with client_on(bus) as client:
        path, lease = await client.acquire()
        # Another kernel runs, and the first one is not installed any more.
        daemon.stop()
        (host.root / "proc/sys/kernel/osrelease").write_text("6.2.0-new\n")
        host.modules.rmdir()
        used_two_hours_ago(daemon)
        daemon.start()
    async with client_on(bus) as client, listener_on(bus) as listener:
        assert await client.call("Prune", "a{sv}", {}) == [[], 0]
        assert usable(path)
        os.close(lease)
        await eventually(lambda: listener.changes("LeaseCount") == [0])
        releases, freed = await client.call("Prune", "a{sv}", {})
        assert releases == [RELEASE]
        assert freed > 0
        assert not usable(path)
        ((release, where, reason),) = listener.of("EntryRemoved")
        assert (release, where) == (RELEASE, path)
        assert "the cache may have 0 entries" in reason
    assert daemon.entries() == daemon.leftovers() == []


@needs_root("becoming another user needs root")
async def test_limits(bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Limits]\nMaxLeasesPerUser=2\nMaxLeases=6\n")
    daemon = make_daemon(bus, root=host.root, arguments=[f"--config={config}"])
    ctl = Ctl(bus, user="nobody")
    descriptors = daemon.descriptors()
    with ctl.holds_a_lease(), ctl.holds_a_lease():
        third = ctl("exec", "--", "true")
        assert third.returncode == 1
        assert "user 65534 holds 2 leases already" in third.stderr
        async with client_on(bus) as client:
            leases = [(await client.acquire())[1] for _ in range(4)]
            with pytest.raises(BusError, match="there are 6 leases") as caught:
                await client.acquire()
            assert caught.value.name == LIMITS_EXCEEDED
            assert (await client.get())[1]["fresh"] is False, "who wants no lease is served"
            assert await client.property("LastError") == ["", ""]
            for lease in leases:
                os.close(lease)
        wait_until(lambda: bus.get("LeaseCount") == 2)
    wait_until(lambda: bus.get("LeaseCount") == 0)
    assert ctl("exec", "--", "true").returncode == 0
    wait_until(lambda: daemon.descriptors() <= descriptors)


async def test_many_leases_come_and_go(bus: Bus, daemon: Daemon) -> None:
    descriptors = daemon.descriptors()
    async with client_on(bus) as client:
        for _ in range(5):
            answers = await asyncio.gather(*(client.acquire() for _ in range(100)))
            assert await client.property("LeaseCount") == 100
            for _, lease in answers:
                os.close(lease)
            await eventually(lambda: os.listdir(daemon.cache / ".leases") == [])
    await eventually(lambda: daemon.descriptors() <= descriptors)


async def test_the_journal_is_not_flooded_with_leases(bus: Bus, daemon: Daemon) -> None:
    """Nor with two failures in turn; what was left out is counted."""
    async with client_on(bus) as client:
        await client.get()
        for number in range(200):
            _, lease = await client.acquire()
            os.close(lease)
            with contextlib.suppress(BusError):
                await client.get(f"9.9.{number % 2}")
    await eventually(lambda: bus.get("LeaseCount") == 0)
    assert daemon.stop() == 0
    log = daemon.log.read_text().splitlines()
    told = [line for line in log if "are leased to" in line or "has ended" in line or "9.9." in line]
    assert 30 <= len(told) < 200
    counted = [re.search(r"(\d+) entries about user 0 .*were left out", line) for line in log]
    assert len(told) + sum(int(match[1]) for match in counted if match) >= 600


def test_who_does_not_take_descriptors_holds_nothing(bus: Bus, daemon: Daemon) -> None:
    """gdbus prints the answer and drops the descriptor."""
    command = ["gdbus", "call", f"--address={bus.address}", "--dest=org.kheaders.Provide"]
    command += ["--object-path=/org/kheaders/Provide", "--method=org.kheaders.Provide.Acquire", "", "{}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert str(daemon.cache) in done.stdout
    wait_until(lambda: bus.get("LeaseCount") == 0)


def test_the_cache_is_removed_under_a_lease(bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    with Ctl(bus).holds_a_lease():
        with halted(daemon):
            shutil.rmtree(daemon.cache)
        host.show(make_kheaders(RELEASE))
        path, details = bus.call("GetHeaders", "sa{sv}", "", "0")
        assert details["fresh"] is True
        assert usable(path)
    wait_until(lambda: bus.get("LeaseCount") == 0)


async def test_only_the_generations_that_a_lease_saw_stay_and_count(
    bus: Bus, daemon: Daemon, host: ServedHost
) -> None:
    """However often the headers are made anew; a restart changes nothing."""
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": bytes(200_000)}))
    async with client_on(bus) as client:
        path, lease = await client.acquire()
        inside = os.open(path, os.O_RDONLY)
        one = await client.property("CacheBytes")
        for _ in range(4):
            await client.get(refresh=Variant("b", True))
        await eventually(lambda: len(trash(daemon)) == 1)
        assert await client.property("CacheBytes") == 2 * one
    daemon.kill()
    daemon.start()
    assert len(trash(daemon)) == 1
    assert os.stat("include/linux/large.h", dir_fd=inside)
    # What they take is counted now, in which directories are free on some file systems.
    assert bus.get("CacheBytes") >= one + 200_000
    os.close(inside)
    os.close(lease)
    wait_until(lambda: trash(daemon) == [])
    wait_until(lambda: bus.get("CacheBytes") == one)


def trash(daemon: Daemon) -> list[Path]:
    return list(daemon.cache.glob(".trash-*"))


@pytest.mark.parametrize("how", ["a header is missing", "another version"])
async def test_what_is_leased_survives_a_restart(bus: Bus, daemon: Daemon, how: str) -> None:
    async with client_on(bus) as client:
        path, lease = await client.acquire()
    daemon.kill()
    if how == "another version":
        record = Path(path).parent / "entry.json"
        record.write_text(record.read_text().replace('"version": ', '"version": 100'))
    else:
        os.unlink(f"{path}/include/linux/types.h")
    daemon.start()
    assert usable(path)
    assert bus.get("CacheBytes") > 0
    assert isinstance(bus.call("Lookup", "s", ""), Refused)
    # Made anew, it has the name, and the leased one is still there.
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is True
    assert len(trash(daemon)) == 1
    os.close(lease)
    wait_until(lambda: trash(daemon) == [])
    assert usable(path)


def test_entries_of_another_version_leave_by_retention(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("")
    daemon = make_daemon(bus, root=host.root, arguments=[f"--config={config}"])
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    daemon.stop()
    record = Path(path).parent / "entry.json"
    record.write_text(record.read_text().replace('"version": ', '"version": 100'))
    daemon.start()
    assert (daemon.entries(), bus.get("EntryCount")) == ([], 0)
    (aside,) = daemon.cache.glob(".aside-*")
    assert (aside / "tree/include/linux/kconfig.h").exists()
    assert bus.get("CacheBytes") > 0
    assert bus.call("Prune", "a{sv}", "0") == [[], 0]
    daemon.stop()
    config.write_text("[Cache]\nMaxSize=1K\n")
    daemon.start()
    wait_until(lambda: bus.get("CacheBytes") == 0)
    assert daemon.leftovers() == []
    assert not aside.exists()
