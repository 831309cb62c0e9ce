"""When headers are dropped, and when they stay."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from kheadersd.cache.entry import Entry
from kheadersd.errors import CompileFailed
from kheadersd.system.disk import Vanished
from tests.support.hosts import RELEASE
from tests.support.pch_rig import EVERY_USER, UNGUARDED, Caller, Rig


@pytest.fixture
async def entry(rig: Rig) -> Entry:
    return (await rig.provider.get(rig.request(), Caller(*EVERY_USER))).entry


def headers(entry: Entry) -> set[str]:
    return {
        os.path.relpath(os.path.join(directory, name), entry.path)
        for directory, _, names in os.walk(entry.path)
        for name in names
    }


async def test_what_is_needed_stays(rig: Rig, entry: Entry) -> None:
    before = headers(entry)
    reduced, why_kept = await rig.header_removal.drop(entry, at_once=True)
    assert (why_kept, reduced.has_headers) == ("", False)
    assert headers(reduced) == {
        UNGUARDED,
        "include/linux/kconfig.h",
        "include/linux/compiler_types.h",
        "include/generated/autoconf.h",
    }
    assert headers(reduced) < before
    assert rig.clang.canaries == 1
    assert rig.entry is reduced


async def test_what_is_needed_is_found_once(rig: Rig, entry: Entry) -> None:
    rig.clang.canary_complaint = "error: no"
    for _ in range(2):
        with pytest.raises(CompileFailed):
            await rig.header_removal.drop(entry, at_once=True)
    assert rig.clang.listed == 1


async def test_headers_come_back_if_a_program_needs_them(rig: Rig, entry: Entry) -> None:
    before = headers(entry)
    rig.clang.canary_complaint = "a.h: error: not found"
    with pytest.raises(CompileFailed, match=r"is not usable, so they were kept: .*a.h: error: not found"):
        await rig.header_removal.drop(entry, at_once=True)
    assert headers(entry) == before
    assert rig.entry is entry
    assert entry.has_headers


async def test_headers_in_use_stay(rig: Rig, entry: Entry) -> None:
    entry.given_at = time.monotonic()
    _, why_kept = await rig.header_removal.drop(entry, at_once=False)
    assert "ten minutes" in why_kept
    entry.given_at -= 601
    _, why_kept = await rig.header_removal.drop(entry, at_once=False)
    assert why_kept == ""


async def test_leased_headers_stay_also_at_once(rig: Rig, entry: Entry) -> None:
    lease = rig.state.leases.grant(entry.name, RELEASE, ":1.1", 0, 1, "test", entry.inode)
    try:
        _, why_kept = await rig.header_removal.drop(entry, at_once=True)
    finally:
        os.close(lease)
    assert "leased 1 times" in why_kept


async def test_headers_that_no_source_has_are_dropped_by_force_alone(rig: Rig, entry: Entry) -> None:
    rig.why_not_restorable = "it is gone"
    _, why_kept = await rig.header_removal.drop(entry, at_once=True)
    assert (why_kept, rig.clang.listed) == ("no source can restore them: it is gone", 0)
    _, why_kept = await rig.header_removal.drop(entry, at_once=True, force=True)
    assert why_kept == ""


async def test_what_no_compiler_can_use_needs_nothing(rig: Rig, entry: Entry) -> None:
    rig.compilers.install()
    reduced, _ = await rig.header_removal.drop(entry, at_once=True)
    assert (reduced.pchs, rig.clang.listed, headers(reduced)) == ({}, 0, set())


async def test_an_entry_that_is_removed_meanwhile(rig: Rig, entry: Entry) -> None:
    removing: list[asyncio.Task[int]] = []

    def remove() -> None:
        removing.append(asyncio.ensure_future(rig.state.lifecycle.removal.remove(RELEASE, force=True)))

    rig.clang.at_canary = remove
    with pytest.raises(Vanished):
        await rig.header_removal.drop(entry, at_once=True)
    await asyncio.gather(*removing)
    assert rig.state.cache.entries() == ()


async def test_who_leaves_does_not_end_it(rig: Rig, entry: Entry) -> None:
    dropping = asyncio.create_task(rig.header_removal.drop(entry, at_once=True))
    await asyncio.sleep(0)
    dropping.cancel()
    await asyncio.wait([dropping])
    await rig.header_removal._background.settle()
    assert not rig.entry.has_headers
