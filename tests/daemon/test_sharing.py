"""Many who ask at once, those who leave before they are answered, and what listeners hear of it all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from kheadersd.dbus.codec import Variant
from kheadersd.dbus.errors import BusError
from tests.support.archives import make_kheaders
from tests.support.clients import (
    BIG_FILES,
    big_kheaders,
    busctl_waits,
    client_on,
    eventually,
    go_on,
    halt_when,
    listener_on,
    staged,
    staged_files,
    usable,
    wait_until,
)
from tests.support.hosts import make_module
from tests.support.running import Bus, Daemon, MakeDaemon
from tests.support.served_host import RELEASE, ServedHost

pytestmark = pytest.mark.slow

OTHER = "5.10.0-1-test"


def extractions(daemon: Daemon) -> int:
    return daemon.log.read_text().count("Extracted the headers of")


def is_calm(bus: Bus, daemon: Daemon) -> None:
    """Nothing is being done, and nothing was left behind."""
    wait_until(lambda: bus.get("Activity") == "idle")
    assert daemon.leftovers() == []


def install_module(host: ServedHost, release: str, archive: bytes) -> None:
    path = host.root / "lib/modules" / release / "kernel/kernel/kheaders.ko"
    path.parent.mkdir(parents=True)
    path.write_bytes(make_module(archive, f"{release} SMP mod_unload"))


async def test_a_thousand_calls_at_once(
    generous_bus: Bus, big_host: ServedHost, make_daemon: MakeDaemon
) -> None:
    daemon = make_daemon(generous_bus, root=big_host.root)
    before = daemon.descriptors()
    async with listener_on(generous_bus) as listener, client_on(generous_bus) as client:
        calls = [asyncio.ensure_future(client.get()) for _ in range(1000)]
        await eventually(lambda: staged(daemon))
        begun = time.monotonic()
        assert await listener.property("LeaseCount") == 0
        assert time.monotonic() - begun < 10, "others are answered meanwhile"
        answers = await asyncio.gather(*calls)
        assert len({path for path, _ in answers}) == 1
        assert len({details["extracted_at"] for _, details in answers}) == 1
        await eventually(lambda: listener.changes("Activity")[-1:] == ["idle"])
        assert len(listener.of("EntryAdded")) == 1
    assert extractions(daemon) == 1
    is_calm(generous_bus, daemon)
    await eventually(lambda: daemon.descriptors() <= before)


async def test_two_hundred_programs_at_once(bus: Bus, big_daemon: Daemon) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_on(bus)) for _ in range(200)]
        answers = await asyncio.gather(*(client.get() for client in clients))
    assert len({path for path, _ in answers}) == 1
    assert extractions(big_daemon) == 1
    is_calm(bus, big_daemon)


def test_two_programs_at_once(bus: Bus, big_daemon: Daemon) -> None:
    with busctl_waits(bus) as one, busctl_waits(bus) as other:
        first, second = one.communicate(timeout=20)[0], other.communicate(timeout=20)[0]
    assert first.split()[1:3] == second.split()[1:3]
    assert str(big_daemon.cache) in first
    assert extractions(big_daemon) == 1


async def test_two_releases_at_once(bus: Bus, big_host: ServedHost, big_daemon: Daemon) -> None:
    install_module(big_host, OTHER, big_kheaders(OTHER))
    async with client_on(bus) as client, listener_on(bus) as listener:
        answers = await asyncio.gather(*(client.get(release) for release in (RELEASE, OTHER) * 5))
        assert len({path for path, _ in answers}) == 2
        for path, details in answers:
            assert details["release"] in path
        await eventually(lambda: listener.changes("EntryCount")[-1:] == [2])
        assert {values[0] for values in listener.of("Progress")} == {RELEASE, OTHER}
        assert any("and 1 more" in activity for activity in listener.changes("Activity"))
        for release in (RELEASE, OTHER):
            assert await client.call("Verify", "sa{sv}", release, {}) == [True, []]
    assert extractions(big_daemon) == 2
    is_calm(bus, big_daemon)


async def test_refreshing_while_others_ask(bus: Bus, daemon: Daemon) -> None:
    async with client_on(bus) as client:
        path, _ = await client.get()
        again = Variant("b", True)
        calls = [client.get(refresh=again) if number % 2 else client.get() for number in range(40)]
        assert {answer for answer, _ in await asyncio.gather(*calls)} == {path}
        assert await client.call("Verify", "sa{sv}", "", {}) == [True, []]
    assert len(daemon.entries()) == 1
    is_calm(bus, daemon)


async def test_removing_while_others_ask(bus: Bus, daemon: Daemon) -> None:
    async with client_on(bus) as client:
        for _ in range(5):
            calls = [client.get() for _ in range(5)]
            removal = client.call("Remove", "sa{sv}", "", {})
            *answers, removed = await asyncio.gather(*calls, removal, return_exceptions=True)
            assert not [answer for answer in answers if isinstance(answer, BaseException)]
            if isinstance(removed, BaseException):
                assert "nothing is cached" in str(removed)
        path, _ = await client.get()
        assert usable(path)
    is_calm(bus, daemon)


async def test_a_failure_reaches_all_who_wait(bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    archive = bytearray(make_kheaders(RELEASE))
    archive[len(archive) // 2] ^= 0xFF
    host.show(bytes(archive))
    async with client_on(bus) as client:
        failures = await asyncio.gather(*(client.get() for _ in range(50)), return_exceptions=True)
    assert {failure.name for failure in failures if isinstance(failure, BusError)} == {
        "org.kheaders.Provide.Error.Corrupt"
    }
    assert len(failures) == 50
    assert daemon.entries() == []
    is_calm(bus, daemon)


# Those who leave


def test_nobody_waits_any_more(bus: Bus, big_daemon: Daemon) -> None:
    with busctl_waits(bus) as one, busctl_waits(bus) as other:
        halt_when(big_daemon, lambda: staged_files(big_daemon) >= BIG_FILES / 10)
        for each in (one, other):
            os.kill(each.pid, signal.SIGKILL)
            each.wait()
        go_on(big_daemon)
    is_calm(bus, big_daemon)
    assert big_daemon.entries() == []
    assert extractions(big_daemon) == 0
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is True
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]


def test_others_still_wait(bus: Bus, big_daemon: Daemon) -> None:
    with busctl_waits(bus) as one:
        halt_when(big_daemon, lambda: staged(big_daemon))
        with busctl_waits(bus) as other:
            time.sleep(0.3)  # its call is in the daemon's socket
            go_on(big_daemon)
            halt_when(big_daemon, lambda: staged_files(big_daemon) >= BIG_FILES / 10)
            os.kill(one.pid, signal.SIGKILL)
            one.wait()
            go_on(big_daemon)
            answer, complaint = other.communicate(timeout=20)
    assert not complaint
    assert str(big_daemon.cache) in answer
    assert extractions(big_daemon) == 1
    is_calm(bus, big_daemon)


async def test_who_asked_first_leaves_and_who_asked_otherwise_waits(bus: Bus, big_daemon: Daemon) -> None:
    """Two who name other sources share the extraction, though not the search."""
    async with client_on(bus) as other:
        async with client_on(bus) as first:
            asking = asyncio.ensure_future(first.get(sources=Variant("as", ["sysfs"])))
            await asyncio.to_thread(halt_when, big_daemon, lambda: staged(big_daemon))
            waiting = asyncio.ensure_future(other.get())
            await asyncio.sleep(0.3)  # its call is in the daemon's socket
            assert len(staged(big_daemon)) == 1
        go_on(big_daemon)
        with pytest.raises(Exception, match="connection"):
            await asking
        path, details = await waiting
    assert usable(path)
    assert details["fresh"] is True
    assert extractions(big_daemon) == 1
    is_calm(bus, big_daemon)


async def test_who_leaves_while_waiting_for_a_lease_has_none(bus: Bus, big_daemon: Daemon) -> None:
    async with client_on(bus) as other:
        with busctl_waits(bus, "Acquire") as one, busctl_waits(bus, "Acquire"):
            await eventually(lambda: staged(big_daemon))
            one.kill()
            await other.get()
        await eventually(lambda: os.listdir(big_daemon.cache / ".leases") == [])
        assert await other.property("LeaseCount") == 0
    is_calm(bus, big_daemon)


async def test_many_leave_and_memory_comes_back(bus: Bus, big_daemon: Daemon) -> None:
    descriptors = big_daemon.descriptors()
    for _ in range(3):
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_on(bus)) for _ in range(50)]
            asking = [asyncio.ensure_future(client.get()) for client in clients]
            await eventually(lambda: staged(big_daemon))
        await asyncio.gather(*asking, return_exceptions=True)
    is_calm(bus, big_daemon)
    assert big_daemon.entries() == []
    await eventually(lambda: big_daemon.descriptors() <= descriptors)


def test_too_slow(bus: Bus, big_host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Limits]\nExtractTimeout=1\n")
    daemon = make_daemon(bus, root=big_host.root, arguments=[f"--config={config}"])
    with busctl_waits(bus, "GetHeaders", "1", "sources", "as", "1", "sysfs") as caller:
        halt_when(daemon, lambda: staged_files(daemon) >= BIG_FILES / 10)
        time.sleep(1)
        go_on(daemon)
        _, complaint = caller.communicate(timeout=10)
    assert caller.returncode
    assert "took longer than 1 s" in complaint
    assert bus.get("LastError")[0] == "org.kheaders.Provide.Error.Timeout"
    assert daemon.entries() == []
    is_calm(bus, daemon)


# What listeners hear


async def test_signals_of_an_extraction(bus: Bus, big_daemon: Daemon) -> None:
    async with listener_on(bus) as listener, client_on(bus) as client:
        begun = time.monotonic()
        path, details = await client.get()
        seconds = time.monotonic() - begun
        await eventually(lambda: listener.changes("Activity")[-1:] == ["idle"])
        await asyncio.sleep(0.1)
        assert listener.of("EntryAdded") == [[RELEASE, path, {**details, "fresh": False}]]
        assert listener.of("EntryRemoved") == []
        assert listener.changes("EntryCount") == [1]
        assert listener.changes("CacheBytes") == [details["bytes"]]
        assert listener.changes("LastError") == []

        progress = listener.of("Progress")
        assert {release for release, _, _ in progress} == {RELEASE}
        assert progress[-1][1:] == ["done", 1.0]
        fractions = [fraction for _, stage, fraction in progress if stage == "extract"]
        assert fractions == sorted(fractions)
        assert all(0 <= fraction <= 1 for fraction in fractions)
        assert len(fractions) <= seconds / 0.2 + 2
        # Activity, count and size change together and are told so.
        assert len(listener.of("PropertiesChanged")) <= len(progress) + 2
        for _, changed, invalidated in listener.of("PropertiesChanged"):
            assert changed
            assert invalidated == []
    is_calm(bus, big_daemon)


async def test_what_happens_together_is_told_together(bus: Bus, daemon: Daemon) -> None:
    assert daemon.entries() == []
    async with listener_on(bus) as listener, client_on(bus) as client:
        leases = [lease for _, lease in await asyncio.gather(*(client.acquire() for _ in range(50)))]
        await eventually(lambda: listener.changes("LeaseCount")[-1:] == [50])
        for lease in leases:
            os.close(lease)
        await eventually(lambda: listener.changes("LeaseCount")[-1:] == [0])
        assert 2 <= len(listener.of("PropertiesChanged")) <= 12


async def test_signals_of_entries_that_leave(bus: Bus, daemon: Daemon) -> None:
    assert daemon.entries() == []
    async with listener_on(bus) as listener, client_on(bus) as client:
        path, _ = await client.get()
        # What changes and changes back at once is not announced.
        await eventually(lambda: listener.changes("EntryCount") == [1])
        os.unlink(f"{path}/include/linux/kconfig.h")
        await asyncio.sleep(0.05)
        await client.get()
        await client.call("Remove", "sa{sv}", "", {})
        await eventually(lambda: listener.changes("EntryCount")[-1:] == [0])
        assert listener.of("EntryRemoved") == [[RELEASE, path, "damaged"], [RELEASE, path, "requested"]]
        heard = [member for _, member, _ in listener.heard if member.startswith("Entry")]
        assert heard == ["EntryAdded", "EntryRemoved"] * 2
        assert await client.property("CacheBytes") == 0


async def test_last_error_is_announced(bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    assert daemon.entries() == []
    host.archive.unlink()
    async with listener_on(bus) as listener, client_on(bus) as client:
        with pytest.raises(BusError) as caught:
            await client.get(sources=Variant("as", ["sysfs"]))
        assert caught.value.name == "org.kheaders.Provide.Error.NotAvailable"
        await eventually(lambda: listener.changes("LastError"))
        assert listener.changes("LastError") == [[caught.value.name, caught.value.message]]
