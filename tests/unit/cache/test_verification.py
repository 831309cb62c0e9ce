"""What follows when an entry is not what it was made."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from kheadersd.cache.entry import Entry
from kheadersd.cache.manifest import Unread
from kheadersd.errors import NotCached
from kheadersd.events import Event
from kheadersd.release import Release
from tests.support.made_up_cache import RELEASE, make
from tests.support.made_up_lifecycle import MadeUp, make_pch

HEADER = "include/linux/types.h"


async def test_an_intact_entry(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    assert await made_up.lifecycle.verification.verify(RELEASE) == []
    assert entry.is_intact()


async def test_nothing_to_verify(made_up: MadeUp) -> None:
    with pytest.raises(NotCached):
        await made_up.lifecycle.verification.verify(Release("5.10.0"))


async def test_a_damaged_entry_is_told_of_once_and_stays_for_those_who_use_it(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    (entry.path / HEADER).unlink()
    for _ in range(2):
        (problem,) = await made_up.lifecycle.verification.verify(RELEASE)
        assert problem == f"'{HEADER}': missing"
    assert entry.is_damaged
    assert len(made_up.journal.of(Event.ENTRY_DAMAGED)) == 1
    assert entry in made_up.cache
    assert entry.path.exists()


async def test_what_cannot_be_read_now_is_no_damage(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make(made_up.cache).entry
    monkeypatch.setattr(Entry, "verify", lambda _: [Unread("a: cannot be read: Input/output error")])
    assert len(await made_up.lifecycle.verification.verify(RELEASE)) == 1
    assert entry.is_intact()


async def test_what_is_made_anew_meanwhile_is_verified(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    (old.path / HEADER).unlink()
    async with made_up.cache.locks.of(old.name):
        verifying = asyncio.create_task(made_up.lifecycle.verification.verify(RELEASE))
        await asyncio.sleep(0)
        new = make(made_up.cache).entry
    assert await verifying == []
    assert new.is_intact()


async def test_an_entry_without_its_directory_is_removed(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    shutil.rmtree(entry.directory)
    made_up.lifecycle.verification.on_damaged(entry, "it is gone")
    assert entry not in made_up.cache
    assert made_up.told.removed == [(entry.name, "damaged")]


async def test_an_entry_that_is_being_replaced_is_not_damaged(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    async with made_up.cache.locks.of(old.name):
        make(made_up.cache)
        made_up.lifecycle.verification.on_damaged(old, "another has its name")
    assert not old.is_damaged
    assert made_up.journal.of(Event.ENTRY_DAMAGED) == []


async def test_a_damaged_precompiled_header_is_removed_and_the_headers_stay(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    good, bad = make_pch(made_up.cache, entry), make_pch(made_up.cache, entry, key="b")
    bad.path.write_bytes(b"c" * bad.record.bytes)
    (problem,) = await made_up.lifecycle.verification.verify(RELEASE)
    assert "not what the compiler wrote" in problem
    assert list(entry.pchs.values()) == [good]
    assert not entry.is_damaged
    assert len(made_up.journal.of(Event.PCH_DAMAGED)) == 1
