"""Headers that are made when a kernel is installed, and go when it is removed."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from kheadersd.cache.entry import HEADERS, TYPES, Entry
from kheadersd.daemon.parts import Parts
from kheadersd.errors import NotCached
from kheadersd.events import Event
from kheadersd.headers.extraction import Extraction, Found
from kheadersd.headers.prefetch import Prefetch
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.host.installed_kernels import Change
from kheadersd.release import Release
from kheadersd.sources.module_file import ModuleFileSource
from kheadersd.system.tasks import IDLE_THREADS, in_thread
from tests.support.archives import make_kheaders
from tests.support.clients import eventually
from tests.support.hosts import OTHER, RELEASE, ignore, make_host, make_module, put_kernel
from tests.support.in_process import LIMITS, Kept, Root, take_headers_away

NONE: frozenset[Release] = frozenset()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
def ahead(host: Host, state: Parts, journal: Kept) -> Prefetch:
    return Prefetch(host, state.provider, state.lifecycle, journal, lambda: True)


def new(*releases: Release, installed: tuple[Release, ...] = ()) -> Change:
    return Change(frozenset({*releases, *installed}), frozenset(releases), frozenset(releases), NONE)


def cached(state: Parts) -> list[tuple[str, str]]:
    return [(entry.release, entry.record.source) for entry in state.cache.entries()]


async def get(state: Parts, release: Release, *sources: str) -> None:
    await state.provider.get(Request(release, sources), Root())


def say_sysfs(host: Host) -> None:
    host.path("sys/kernel/kheaders.tar.xz").write_bytes(make_kheaders(RELEASE, {"include/x.h": b"sysfs"}))


async def test_kernels_that_are_new(host: Host, state: Parts, ahead: Prefetch, journal: Kept) -> None:
    put_kernel(host, OTHER)
    put_kernel(host, RELEASE)
    await ahead.follow(new(OTHER, RELEASE))
    assert cached(state) == [(OTHER, "module-file"), (RELEASE, "module-file")]
    first, second = journal.of(Event.ENTRY_ADDED)
    assert RELEASE in first, "the running kernel comes first"
    assert OTHER in second
    # What is there is not made again.
    await ahead.follow(new(OTHER, RELEASE))
    assert len(journal.of(Event.ENTRY_ADDED)) == 2
    # The distribution deletes the modules of the running kernel.
    shutil.rmtree(host.path("lib/modules", RELEASE))
    await ahead.follow(Change(frozenset({OTHER}), NONE, NONE, frozenset({RELEASE})))
    assert cached(state) == [(OTHER, "module-file"), (RELEASE, "module-file")]
    await get(state, RELEASE, "module-file")
    assert len(journal.of(Event.ENTRY_ADDED)) == 2


async def test_replaced_under_the_same_release(host: Host, state: Parts, ahead: Prefetch) -> None:
    put_kernel(host, OTHER)
    await ahead.follow(new(OTHER))
    put_kernel(host, OTHER, "/* of another build */")
    await ahead.follow(new(OTHER))
    entry = state.cache.find(OTHER)
    assert entry is not None
    assert (entry.path / "include/linux/more.h").read_text() == "/* of another build */"


async def test_what_is_there_from_elsewhere_is_enough(
    host: Host, state: Parts, ahead: Prefetch, journal: Kept
) -> None:
    say_sysfs(host)
    await get(state, RELEASE, "sysfs")
    put_kernel(host, RELEASE)
    await ahead.follow(new(RELEASE))
    assert cached(state) == [(RELEASE, "sysfs")]


async def test_headers_that_were_dropped_meanwhile_stay_away(host: Host, state: Parts) -> None:
    put_kernel(host, OTHER)
    archive = await ModuleFileSource(host).find(OTHER, ignore)

    async def make(*, ahead: bool) -> tuple[Entry, bool]:
        request = Request(OTHER, ("module-file",), ahead=ahead)
        found = Found(request, "module-file", archive, LIMITS, None, ignore)
        return await Extraction(state.lifecycle, host).entry(found)

    entry, _ = await make(ahead=True)
    reduced = take_headers_away(state, entry)
    assert await make(ahead=True) == (reduced, False)
    again, fresh = await make(ahead=False)
    assert (again.has_headers, fresh) == (True, True)


async def test_an_entry_is_verified_as_it_is_when_its_turn_comes(host: Host, state: Parts) -> None:
    put_kernel(host, OTHER)
    await get(state, OTHER, "module-file")
    (entry,) = state.cache.entries()
    async with state.cache.locks.of(entry.name):
        verifying = asyncio.create_task(state.lifecycle.verification.verify(OTHER))
        await asyncio.sleep(0.05)
        take_headers_away(state, entry)
    assert await verifying == []
    async with state.cache.locks.of(entry.name):
        verifying = asyncio.create_task(state.lifecycle.verification.verify(OTHER))
        await asyncio.sleep(0.05)
        await state.lifecycle.removal.remove(OTHER, force=False)
    with pytest.raises(NotCached):
        await verifying


async def test_without_a_module(host: Host, state: Parts, ahead: Prefetch, journal: Kept) -> None:
    await ahead.follow(new(RELEASE))
    assert cached(state) == []
    assert journal.of(Event.AHEAD_FAILED) == []


async def test_a_module_that_is_of_no_use(host: Host, state: Parts, ahead: Prefetch, journal: Kept) -> None:
    """Half written, as it were; and another kernel's. What comes after them is made nevertheless."""
    broken = put_kernel(host, "4.0.0-half")
    os.truncate(broken, 1000)
    foreign = put_kernel(host, "4.1.0-foreign")
    foreign.write_bytes(make_module(make_kheaders(OTHER), f"{OTHER} SMP"))
    put_kernel(host, OTHER)
    await ahead.follow(new(Release("4.0.0-half"), Release("4.1.0-foreign"), OTHER))
    assert cached(state) == [(OTHER, "module-file")]
    half, other = journal.of(Event.AHEAD_FAILED)
    assert "4.0.0-half" in half
    assert str(broken) in half
    assert OTHER in other
    assert state.failures.last == ("", ""), "no caller asked"


async def test_not_wanted(host: Host, state: Parts, journal: Kept) -> None:
    put_kernel(host, OTHER)
    await Prefetch(host, state.provider, state.lifecycle, journal, lambda: False).follow(new(OTHER))
    assert cached(state) == []


async def test_removed(host: Host, state: Parts, ahead: Prefetch, journal: Kept) -> None:
    put_kernel(host, OTHER)
    put_kernel(host, RELEASE)
    await ahead.follow(new(OTHER, RELEASE))
    await ahead.follow(Change(frozenset({RELEASE}), NONE, NONE, frozenset({OTHER})))
    assert cached(state) == [(RELEASE, "module-file")]
    (message,) = journal.of(Event.ENTRY_REMOVED)
    assert OTHER in message
    assert "its kernel was removed" in message


async def test_removed_while_the_daemon_was_away(host: Host, state: Parts, ahead: Prefetch) -> None:
    put_kernel(host, OTHER)
    await get(state, OTHER, "module-file")
    await ahead.follow(new(RELEASE))
    assert cached(state) == []


async def test_nothing_is_installed_any_more(host: Host, state: Parts, ahead: Prefetch) -> None:
    """/lib/modules is hidden, or not mounted, rather than every kernel removed."""
    put_kernel(host, OTHER)
    await ahead.follow(new(OTHER))
    await ahead.follow(Change(NONE, NONE, NONE, frozenset({OTHER, RELEASE})))
    assert cached(state) == [(OTHER, "module-file")]


async def test_leased(host: Host, state: Parts, ahead: Prefetch) -> None:
    put_kernel(host, OTHER)
    await ahead.follow(new(OTHER, installed=(RELEASE,)))
    entry = state.cache.find(OTHER)
    assert entry is not None
    holder = state.leases.grant(entry.name, OTHER, ":1.1", 0, 1, "")
    gone = Change(frozenset({RELEASE}), NONE, NONE, frozenset({OTHER}))
    await ahead.follow(gone)
    assert cached(state) == [(OTHER, "module-file")]
    os.close(holder)
    await eventually(lambda: not state.leases.held(entry.name))
    await ahead.follow(gone)
    assert cached(state) == []


async def test_what_was_in_sysfs_goes_only_when_its_kernel_was_seen_to_go(
    host: Host, state: Parts, ahead: Prefetch, tmp_path: Path
) -> None:
    say_sysfs(host)
    await get(state, RELEASE, "sysfs")
    # The next boot, into another kernel.
    host.path("proc/sys/kernel/osrelease").write_text(OTHER)
    rebooted = Prefetch(Host(host.root), state.provider, state.lifecycle, Kept(), lambda: True)
    await rebooted.follow(new(OTHER))
    assert cached(state) == [(RELEASE, "sysfs")], "it may never have had modules"
    await rebooted.follow(Change(frozenset({OTHER}), NONE, NONE, frozenset({RELEASE})))
    assert cached(state) == []


async def test_what_was_downloaded_stays(host: Host, state: Parts, ahead: Prefetch) -> None:
    put_kernel(host, OTHER)
    await get(state, OTHER, "module-file")
    (entry,) = state.cache.entries()
    entry.record = dataclasses.replace(entry.record, source="package")
    await ahead.follow(Change(frozenset({RELEASE}), NONE, NONE, frozenset({OTHER})))
    assert cached(state) == [(OTHER, "package")]


@pytest.mark.parametrize(
    ("source", "kind", "origin", "kept"),
    [
        ("tree", HEADERS, "usr/src/linux-headers-x", False),
        ("btf", TYPES, "boot/vmlinuz-x", False),
        ("btf", TYPES, "sys/kernel/btf/vmlinux", True),
    ],
)
async def test_what_was_made_of_what_was_installed_with_it(
    host: Host, state: Parts, ahead: Prefetch, source: str, kind: str, origin: str, kept: bool
) -> None:
    put_kernel(host, OTHER)
    await get(state, OTHER, "module-file")
    (entry,) = state.cache.entries()
    record = dataclasses.replace(entry.record, source=source, kind=kind, origin=str(host.path(origin)))
    entry.record = record
    installed = frozenset({RELEASE, OTHER})
    await ahead.follow(Change(installed, NONE, NONE, NONE))
    assert cached(state) == [(OTHER, source)]
    await ahead.follow(Change(frozenset({RELEASE}), NONE, NONE, NONE))
    assert cached(state) == [(OTHER, source)] * kept
    # The types that it showed of itself go when it was seen to go.
    await ahead.follow(Change(frozenset({RELEASE}), NONE, NONE, frozenset({OTHER})))
    assert cached(state) == []


async def test_a_tree_in_place_says_that_its_kernel_is_installed(
    host: Host, state: Parts, ahead: Prefetch
) -> None:
    """As on WSL, where a kernel has headers and no modules; another kernel has some."""
    put_kernel(host, OTHER)
    await get(state, OTHER, "module-file")
    (entry,) = state.cache.entries()
    tree = host.path("usr/src/linux-headers-x")
    shutil.copytree(entry.path, tree)
    entry.record = dataclasses.replace(entry.record, source="tree", origin=str(tree))
    without_it = Change(frozenset({RELEASE}), NONE, NONE, NONE)
    await ahead.follow(without_it)
    assert cached(state) == [(OTHER, "tree")]
    shutil.rmtree(tree)
    await ahead.follow(without_it)
    assert cached(state) == []


async def test_at_a_low_priority() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    before = priority()
    assert await in_thread(priority, threads=IDLE_THREADS) > before
    assert priority() == before


async def test_ended_in_the_middle(host: Host, state: Parts, ahead: Prefetch) -> None:
    put_kernel(host, OTHER)
    following = asyncio.create_task(ahead.follow(new(OTHER)))
    await eventually(lambda: list(state.cache.directory.glob(".staging-*")) or following.done())
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await state.provider.close()
    await state.lifecycle.close()
    assert not list(state.cache.directory.glob(".staging-*"))
