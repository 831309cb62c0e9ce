"""Kernels that are installed, removed and replaced in real directories."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.host.host import Host
from kheadersd.host.installed_kernels import Change, Kernels
from kheadersd.release import Release
from tests.support.clients import eventually
from tests.support.hosts import OTHER, RELEASE, install, make_host

SETTLE = 0.1
NONE: frozenset[Release] = frozenset()


def queue_limit() -> int:
    return int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())


class Follower:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.limits: list[str] = []

    async def changed(self, change: Change) -> None:
        self.changes.append(change)

    async def next(self, seconds: float = 5) -> Change:
        deadline = time.monotonic() + seconds
        while not self.changes:
            assert time.monotonic() < deadline, "nothing was noticed"
            await asyncio.sleep(0.01)
        return self.changes.pop(0)

    async def nothing(self) -> None:
        await asyncio.sleep(5 * SETTLE)
        assert self.changes == []


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
def follower() -> Follower:
    return Follower()


@contextlib.asynccontextmanager
async def watched(host: Host, follower: Follower, interval: float = 60) -> AsyncIterator[None]:
    def limited(reason: str) -> None:
        follower.limits.append(reason)

    kernels = Kernels(host, follower.changed, limited, settle=SETTLE, interval=interval)
    task = asyncio.create_task(kernels.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def watching(host: Host, follower: Follower) -> AsyncIterator[None]:
    """A host with one kernel, `RELEASE`, whose start has been noticed."""
    install(host, RELEASE)
    async with watched(host, follower):
        assert await follower.next() == Change(
            frozenset({RELEASE}), frozenset({RELEASE}), frozenset({RELEASE}), frozenset()
        )
        yield


async def test_installed_and_removed(watching: None, host: Host, follower: Follower) -> None:
    install(host, OTHER)
    change = await follower.next()
    assert change == Change(frozenset({RELEASE, OTHER}), frozenset({OTHER}), frozenset({OTHER}), NONE)
    shutil.rmtree(host.path("lib/modules", OTHER))
    change = await follower.next()
    assert change == Change(frozenset({RELEASE}), NONE, NONE, frozenset({OTHER}))
    await follower.nothing()


async def test_installed_slowly(watching: None, host: Host, follower: Follower) -> None:
    """Each step is later than what the watch takes for the end."""
    directory = host.path("lib/modules", OTHER)
    for name in ("", "kernel", "kernel/kernel"):
        (directory / name).mkdir()
        await asyncio.sleep(3 * SETTLE)
    install(host, OTHER)
    while not (change := await follower.next()).new:
        pass
    assert change.new == {OTHER}


async def test_many_files_are_one_change(watching: None, host: Host, follower: Follower) -> None:
    directory = host.path("lib/modules", OTHER, "kernel/kernel")
    directory.mkdir(parents=True)
    end = time.monotonic() + 8 * SETTLE
    number = 0
    while time.monotonic() < end:
        (directory / f"{number}.ko").write_text("")
        number += 1
        await asyncio.sleep(SETTLE / 10)
    install(host, OTHER)
    assert (await follower.next()).new == {OTHER}
    await follower.nothing()


@pytest.mark.parametrize("how", ["renamed", "written", "compressed", "elsewhere"])
async def test_replaced(watching: None, host: Host, follower: Follower, how: str) -> None:
    directory = host.path("lib/modules", RELEASE)
    module = directory / "kernel/kernel/kheaders.ko"
    match how:
        case "renamed":
            install(host, RELEASE, b"another")
        case "written":
            module.write_bytes(b"another")
        case "compressed":
            module.with_name("kheaders.ko.xz").write_bytes(b"another")
            module.unlink()
        case "elsewhere":
            (directory / "extra").mkdir()
            module.unlink()
            (directory / "extra/kheaders.ko").write_bytes(b"another")
            (directory / "modules.dep").write_text("extra/kheaders.ko:\n")
    change = await follower.next()
    assert change == Change(frozenset({RELEASE}), frozenset({RELEASE}), frozenset({RELEASE}), NONE)
    await follower.nothing()


async def test_the_module_alone_is_removed(watching: None, host: Host, follower: Follower) -> None:
    host.path("lib/modules", RELEASE, "kernel/kernel/kheaders.ko").unlink()
    change = await follower.next()
    assert change == Change(frozenset({RELEASE}), frozenset({RELEASE}), NONE, NONE)


async def test_what_does_not_concern_the_module(watching: None, host: Host, follower: Follower) -> None:
    directory = host.path("lib/modules", RELEASE)
    (directory / "build").symlink_to("/usr/src/linux")
    (directory / "kernel/drivers").mkdir()
    (directory / "kernel/kernel/other.ko").write_text("")
    (directory / "modules.dep").write_text("kernel/kernel/kheaders.ko:\nkernel/kernel/other.ko:\n")
    host.path("lib/modules/not a release").mkdir()
    await follower.nothing()


@pytest.mark.parametrize("name", ["lib/modules", "lib/modules/" + RELEASE])
async def test_a_directory_in_the_place_of_another(
    watching: None, host: Host, follower: Follower, name: str
) -> None:
    directory = host.path(name)
    directory.rename(host.path("old"))
    directory.mkdir()
    install(host, RELEASE, b"another")
    assert (await follower.next()).new == {RELEASE}
    install(host, RELEASE, b"a third")
    assert (await follower.next()).new == {RELEASE}


async def test_more_events_than_the_kernel_keeps(watching: None, host: Host, follower: Follower) -> None:
    """They are not read while they come."""
    one, other = (host.path("lib/modules", name) for name in ("one", "other"))
    one.mkdir()
    for _ in range(queue_limit() // 2 + 500):
        one.rename(other)
        one, other = other, one
    install(host, OTHER)
    assert (await follower.next()).new == {OTHER}
    shutil.rmtree(host.path("lib/modules", OTHER))
    assert (await follower.next()).gone == {OTHER}


async def test_no_directory_is_looked_for_again(host: Host, follower: Follower) -> None:
    shutil.rmtree(host.path("lib/modules"))
    async with watched(host, follower, interval=0.2):
        assert await follower.next() == Change(NONE, NONE, NONE, NONE)
        await follower.nothing()
        install(host, OTHER)
        assert (await follower.next()).new == {OTHER}
        install(host, RELEASE)
        assert (await follower.next()).new == {RELEASE}
        shutil.rmtree(host.path("lib/modules"))
        assert (await follower.next()).gone == {OTHER, RELEASE}
    assert follower.limits == []


async def test_a_link_to_the_directories(host: Host, follower: Follower) -> None:
    host.path("usr").mkdir()
    host.path("lib").rename(host.path("usr/lib"))
    host.path("lib").symlink_to("usr/lib")
    async with watched(host, follower):
        assert (await follower.next()).installed == NONE
        install(host, OTHER)
        assert (await follower.next()).new == {OTHER}


async def test_a_change_during_the_work(host: Host) -> None:
    """What comes while a change is worked on is found afterwards."""
    install(host, RELEASE)
    seen: list[Change] = []
    go_on = asyncio.Event()

    async def work(change: Change) -> None:
        seen.append(change)
        await go_on.wait()

    task = asyncio.create_task(Kernels(host, work, lambda _: None, settle=SETTLE).run())
    try:
        await eventually(lambda: len(seen) == 1)
        install(host, OTHER)
        go_on.set()
        await eventually(lambda: len(seen) == 2)
        assert seen[1].new == {OTHER}
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
