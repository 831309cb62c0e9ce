"""What happens to an entry while something else is done with it: the second request sees it as it is."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from kheadersd.cache.entry import Entry
from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.errors import Corrupt
from kheadersd.events import Event
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.system.disk import Vanished
from tests.support.clients import eventually
from tests.support.hosts import OTHER, make_host, put_kernel
from tests.support.in_process import Kept, Root, take_headers_away

REQUEST = Request(OTHER, ("module-file",))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = make_host(tmp_path / "host")
    put_kernel(made, OTHER)
    return made


@pytest.fixture
async def entry(state: Parts) -> Entry:
    await state.provider.get(REQUEST, Root())
    (entry,) = state.cache.entries()
    return entry


async def test_what_is_made_anew_is_served_meanwhile(state: Parts, entry: Entry, journal: Kept) -> None:
    refreshing = asyncio.create_task(state.provider.get(dataclasses.replace(REQUEST, refresh=True), Root()))
    while not refreshing.done():
        served = state.existing.ready(REQUEST)
        assert served is not None
        assert served.path == entry.path
        await asyncio.sleep(0)
    assert (await refreshing).entry is not entry
    assert journal.of(Event.ENTRY_DAMAGED) == []


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 4, 8, 16])
async def test_what_was_removed_does_not_come_back_without_headers(
    state: Parts, entry: Entry, milliseconds: int
) -> None:
    reducing = asyncio.create_task(state.derived.header_removal.drop(entry, at_once=True))
    await asyncio.sleep(milliseconds / 1000)
    await state.lifecycle.removal.remove(OTHER, force=False)
    await asyncio.wait([reducing])
    assert isinstance(reducing.exception(), Vanished | None)
    await state.lifecycle.close()
    assert state.cache.entries() == ()
    assert [name for name in os.listdir(state.cache.directory) if name[0] != "."] == []


async def test_a_reduction_that_cannot_be_done_says_why(state: Parts, entry: Entry) -> None:
    (entry.directory / "manifest").unlink()
    with pytest.raises(Corrupt, match="manifest: cannot be read"):
        await state.derived.header_removal.drop(entry, at_once=True)


async def test_each_prune_chooses_for_itself(state: Parts, host: Host, entry: Entry) -> None:
    for number in range(2):
        release = Release(f"4.{number}.0-gone")
        put_kernel(host, release)
        await state.provider.get(Request(release, ("module-file",)), Root())
        shutil.rmtree(host.path("lib/modules", release))
    state.lifecycle.pruning.configure(Config(max_entries=2))
    first = asyncio.create_task(state.lifecycle.pruning.prune())
    await eventually(lambda: len(state.cache.entries()) < 3)
    # It has chosen, and removes files still.
    state.lifecycle.pruning.configure(Config(max_entries=1))
    removed, _ = await state.lifecycle.pruning.prune()
    await first
    await state.lifecycle.close()
    assert state.cache.entries() == (entry,), "its kernel is installed"
    assert len(removed) <= 1


async def test_the_mark_of_one_is_not_given_to_another(state: Parts, entry: Entry) -> None:
    await state.lifecycle.close()
    reduced = take_headers_away(state, entry)
    await state.lifecycle.close()
    (reduced.directory / "durable").unlink()
    with pytest.raises(Vanished):
        entry.mark_durable()
    assert not (reduced.directory / "durable").exists()


async def test_an_entry_is_marked_under_its_lock(state: Parts) -> None:
    """While it is locked, something else may be changing what is on its disk."""
    served = await state.provider.get(REQUEST, Root())
    entry = served.entry
    assert entry is not None
    mark = entry.directory / "durable"
    async with (lock := state.cache.locks.of(entry.name)):
        await eventually(lambda: "waiters:1" in repr(lock))
        assert not mark.exists()
    await state.lifecycle.close()
    assert mark.exists()


async def test_a_kernel_that_cannot_be_looked_at_is_taken_to_be_installed(host: Host, state: Parts) -> None:
    directory = host.path("lib/modules", "4.9.9-hidden")
    directory.mkdir()
    (directory / "kernel").symlink_to("x" * 300)  # as with a directory without permission, for root too
    assert host.installed_releases() >= {"4.9.9-hidden"}
    assert await state.lifecycle.pruning.prune() == ([], 0)
