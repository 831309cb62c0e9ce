"""What is removed, what stays because it is leased, and what is told of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest

from kheadersd.cache import removal
from kheadersd.cache.leftovers import Stay
from kheadersd.errors import InUse, NotCached
from kheadersd.events import Event
from kheadersd.release import Release
from kheadersd.system.disk import remove_tree
from kheadersd.system.tasks import Cancelled
from tests.support.clients import eventually
from tests.support.made_up_cache import NOON, RELEASE, make, names
from tests.support.made_up_lifecycle import MadeUp, make_pch

OTHER = Release("5.10.0")


async def test_all_entries_of_a_release_and_no_others(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    new = make(made_up.cache, extra={"include/new.h": b"x"}).entry
    other = make(made_up.cache, OTHER).entry
    assert await made_up.lifecycle.removal.remove(RELEASE, force=False) == old.bytes + new.bytes
    assert made_up.cache.entries() == (other,)
    assert names(made_up.cache.directory) == [other.name]
    assert sorted(made_up.told.removed) == sorted([(old.name, "requested"), (new.name, "requested")])


async def test_nothing_to_remove(made_up: MadeUp) -> None:
    make(made_up.cache)
    with pytest.raises(NotCached):
        await made_up.lifecycle.removal.remove(OTHER, force=True)


async def test_a_leased_entry_is_removed_by_force_only(made_up: MadeUp) -> None:
    old, new = make(made_up.cache).entry, make(made_up.cache, extra={"include/new.h": b"x"}).entry
    lease = made_up.lease(old)
    with pytest.raises(InUse, match="leased 1 times"):
        await made_up.lifecycle.removal.remove(RELEASE, force=False)
    assert set(made_up.cache.entries()) == {old, new}, "one of two leased: none is removed"
    await made_up.lifecycle.removal.remove(RELEASE, force=True)
    assert made_up.cache.entries() == ()
    os.close(lease)


async def test_of_kernels_that_are_gone_what_is_leased_stays(made_up: MadeUp) -> None:
    leased, free = make(made_up.cache).entry, make(made_up.cache, OTHER).entry
    lease = made_up.lease(leased)
    await made_up.lifecycle.removal.remove_unleased([leased, free], "its kernel was removed")
    assert made_up.cache.entries() == (leased,)
    assert made_up.told.removed == [(free.name, "its kernel was removed")]
    os.close(lease)


async def test_what_was_replaced_is_removed(made_up: MadeUp) -> None:
    make(made_up.cache)
    published = make(made_up.cache)
    assert published.replaced is not None
    made_up.lifecycle.removal.on_replaced(published)
    await eventually(lambda: names(made_up.cache.directory) == [published.entry.name])
    assert list(made_up.cache.leftovers) == []


async def test_what_was_replaced_and_is_leased_stays_until_the_lease_ends(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    lease = made_up.lease(old)
    published = make(made_up.cache)
    made_up.lifecycle.removal.on_replaced(published)
    (leftover,) = made_up.cache.leftovers
    assert (leftover.stay, leftover.inode) == (Stay.LEASED, old.inode)
    assert made_up.cache.total_bytes() == published.entry.bytes + leftover.bytes
    made_up.lifecycle.removal.on_leases_changed()
    await made_up.lifecycle.removal.close()
    assert leftover.directory.exists()
    os.close(lease)
    await eventually(lambda: list(made_up.cache.leftovers) == [])


async def test_an_entry_that_another_program_removed(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    shutil.rmtree(entry.directory)
    made_up.lifecycle.removal.start_removing(entry, "damaged")
    assert made_up.cache.entries() == ()
    assert made_up.told.removed == [(entry.name, "damaged")]


async def test_a_precompiled_header(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    one, other = make_pch(made_up.cache, entry), make_pch(made_up.cache, entry, key="b")
    assert await made_up.lifecycle.removal.remove_pch(entry, one, "old")
    assert list(entry.pchs.values()) == [other]
    await eventually(lambda: names(entry.directory / "pch") == [other.path.parent.name])
    assert made_up.journal.of(Event.PCH_REMOVED) == [f"Removed {one.path}: old"]


async def test_what_stays_on_the_disk_is_told(made_up: MadeUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """CacheBytes counts what could not be removed."""
    entry = make(made_up.cache).entry
    told: list[int] = []
    made_up.told.on_change = lambda: told.append(made_up.cache.total_bytes())
    monkeypatch.setattr(removal, "remove_tree", lambda *_: ["cannot remove it"])
    made_up.lifecycle.removal.start_removing(entry, "old")
    await made_up.lifecycle.removal.close()
    assert made_up.cache.total_bytes() > 0
    assert told[-1] == made_up.cache.total_bytes()
    (leftover,) = made_up.cache.leftovers
    told.clear()
    assert await made_up.lifecycle.removal.remove_leftover(leftover, "it could not be removed before")
    assert told == [made_up.cache.total_bytes()]


async def test_a_precompiled_header_that_another_has_replaced(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    old, new = make_pch(made_up.cache, entry), make_pch(made_up.cache, entry)
    assert await made_up.lifecycle.removal.remove_pch(entry, old, "old")
    assert new.path.exists(), "it has the same path"


async def test_a_caller_that_is_cancelled_does_not_end_the_removal(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    lease = made_up.lease(old)
    made_up.lifecycle.removal.on_replaced(make(made_up.cache, at=NOON + 1))
    os.close(lease)
    (leftover,) = made_up.cache.leftovers
    removing = asyncio.create_task(made_up.lifecycle.removal.remove_leftover(leftover, "old"))
    await asyncio.sleep(0)
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)
    await made_up.lifecycle.removal.remove(RELEASE, force=True)
    await made_up.lifecycle.removal.close()
    assert names(made_up.cache.directory) == [".leases"]


async def test_what_a_cancelled_extraction_leaves(made_up: MadeUp) -> None:
    staging = made_up.cache.stage(RELEASE, "a" * 64)
    (staging.tree / "file").write_text("x")
    with pytest.raises(Cancelled), staging:
        raise Cancelled
    assert staging.tree.exists(), "its files are removed later"
    await made_up.lifecycle.removal.close()
    assert names(made_up.cache.directory) == []


def test_a_removal_that_is_cancelled(tmp_path: Path) -> None:
    (tmp_path / "tree/directory").mkdir(parents=True)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        remove_tree(tmp_path / "tree", cancelled)
    assert names(tmp_path / "tree") == ["directory"]


async def test_a_leftover_that_another_has_replaced_stays(made_up: MadeUp) -> None:
    old = make(made_up.cache).entry
    lease = made_up.lease(old)
    made_up.lifecycle.removal.on_replaced(make(made_up.cache, at=NOON + 1))
    (leftover,) = made_up.cache.leftovers
    shutil.rmtree(leftover.directory)
    leftover.directory.mkdir()
    assert await made_up.lifecycle.removal.remove_leftover(leftover, "old") == []
    assert leftover.directory.exists()
    os.close(lease)
