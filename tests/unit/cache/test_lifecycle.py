"""What follows when an entry is published, found at start, or found again elsewhere."""

from __future__ import annotations

import dataclasses
import os
import shutil

from kheadersd.cache.entry import Record
from kheadersd.cache.recovery import Recovered
from kheadersd.cache.without_headers import drop_headers
from kheadersd.events import Event
from tests.support.made_up_cache import RELEASE, make
from tests.support.made_up_lifecycle import MadeUp

HEADER = "include/linux/types.h"


async def test_a_new_entry_becomes_durable(made_up: MadeUp) -> None:
    published = make(made_up.cache)
    made_up.lifecycle.add(published, 0.1, None)
    assert made_up.told.added == [published.entry.name]
    await made_up.lifecycle.close()
    assert published.entry.is_durable
    assert (published.entry.directory / "durable").exists()
    assert made_up.told.removed == []


async def test_an_entry_that_loses_files_at_once_is_damaged(made_up: MadeUp) -> None:
    published = make(made_up.cache)
    (published.entry.path / HEADER).unlink()
    made_up.lifecycle.add(published, 0.1, None)
    await made_up.lifecycle.close()
    assert published.entry.is_damaged
    assert not published.entry.is_durable


async def test_a_new_entry_takes_the_place_of_a_damaged_one(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    old.is_damaged = True
    published = make(made_up.cache)
    made_up.cache.insert(old)  # as it is when the new one has its name on the disk only
    made_up.lifecycle.add(published, 0.1, None)
    assert made_up.told.removed == [(old.name, "damaged")]
    assert made_up.cache.entries() == (published.entry,)


async def test_what_a_start_finds(made_up: MadeUp) -> None:
    new, damaged = make(made_up.cache).entry, make(made_up.cache, extra={"include/a.h": b""}).entry
    damaged.is_damaged = True
    lease = made_up.lease(damaged)
    found = Recovered([new, damaged], [(damaged, "a.h: missing")], problems=["a problem"], unknown=["notes"])
    made_up.lifecycle.on_recovered(found)
    await made_up.lifecycle.close()
    os.close(lease)
    assert new.is_durable
    assert not damaged.is_durable
    assert made_up.journal.of(Event.CACHE_FAILED) == ["a problem"]
    assert len(made_up.journal.of(Event.ENTRY_DAMAGED)) == 1
    (cleared,) = made_up.journal.of(Event.CACHE_CLEARED)
    assert cleared.startswith("notes ")


async def test_the_headers_are_dropped(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    published = drop_headers(made_up.cache, entry, [HEADER])
    made_up.cache.insert(published.entry)
    made_up.lifecycle.on_headers_dropped(published)
    await made_up.lifecycle.close()
    assert published.entry.is_durable
    assert len(made_up.journal.of(Event.HEADERS_DROPPED)) == 1
    assert (made_up.told.added, made_up.told.removed) == ([], []), "it is the same entry"
    assert published.replaced is not None
    assert not published.replaced.exists()


async def test_an_archive_that_is_found_elsewhere(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    newest = make(made_up.cache, extra={"include/a.h": b""}).entry
    assert made_up.cache.find(RELEASE) is newest
    record = dataclasses.replace(entry.record, origin="/elsewhere")
    assert await made_up.lifecycle.update_origin(entry, record)
    assert entry.record == record
    assert Record.decode((entry.directory / "entry.json").read_bytes()) == record
    assert made_up.cache.find(RELEASE) is entry


async def test_an_entry_that_vanishes_before_its_origin_is_noted(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    shutil.rmtree(entry.directory)
    before = entry.record
    record = dataclasses.replace(before, origin="/elsewhere")
    assert not await made_up.lifecycle.update_origin(entry, record)
    assert entry.record == before
