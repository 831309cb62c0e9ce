"""The retention policy is applied: to entries, leftovers and precompiled headers."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from kheadersd.cache.leftovers import Leftover, Stay
from kheadersd.config import Config
from kheadersd.release import Release
from tests.support.clients import eventually
from tests.support.made_up_cache import NOON, RELEASE, SECOND, make, names
from tests.support.made_up_lifecycle import MadeUp, make_pch

OTHER = Release("5.10.0")


async def prune(made_up: MadeUp, config: Config) -> tuple[list[Release], int]:
    made_up.lifecycle.pruning.configure(config)
    await made_up.lifecycle.pruning.close()
    return await made_up.lifecycle.pruning.prune()


def leftover(made_up: MadeUp, stay: Stay, name: str, *, last_used: int = NOON) -> Leftover:
    path = made_up.cache.directory / f".{name}"
    path.mkdir()
    made = Leftover(stay, name, path, path.stat().st_ino, 4096, last_used)
    made_up.cache.leftovers.add(made)
    return made


async def test_the_one_that_was_not_used_for_longest(made_up: MadeUp) -> None:
    old, new = make(made_up.cache, at=NOON).entry, make(made_up.cache, OTHER, at=NOON + SECOND).entry
    made_up.lifecycle.pruning.configure(Config(max_entries=1, max_age=None))
    await made_up.lifecycle.pruning.close()
    assert made_up.cache.entries() == (new,)
    assert [name for name, _ in made_up.told.removed] == [old.name]


async def test_what_a_program_was_given_stays_for_an_hour(
    made_up: MadeUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, pch_owner = make(made_up.cache, at=NOON).entry, make(made_up.cache, OTHER, at=NOON).entry
    entry.given_at = time.monotonic() - 3500
    make_pch(made_up.cache, pch_owner).touch()
    # The clock is set forward.
    later = time.time_ns() + 40 * 86_400 * 10**9
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: later)
        assert await prune(made_up, Config(max_entries=0)) == ([], 0)
    entry.given_at -= 101
    assert (await prune(made_up, Config(max_entries=0)))[0] == []
    assert made_up.cache.entries() == (pch_owner,)
    assert await made_up.lifecycle.removal.remove(OTHER, force=False) > 0


async def test_what_it_frees(made_up: MadeUp) -> None:
    entry = make(made_up.cache, at=NOON).entry
    make(made_up.cache, OTHER, at=NOON + SECOND)
    made_up.lifecycle.pruning.configure(Config(max_entries=2, max_age=None))
    await made_up.lifecycle.pruning.close()
    assert await made_up.lifecycle.pruning.prune() == ([], 0)
    entry.is_damaged = True
    assert await made_up.lifecycle.pruning.prune() == ([RELEASE], entry.bytes)


async def test_installed_kernels_and_leased_entries_stay(made_up: MadeUp) -> None:
    made_up.install(RELEASE)
    leased, installed = make(made_up.cache, OTHER, at=NOON).entry, make(made_up.cache, at=NOON).entry
    lease = made_up.lease(leased)
    assert await prune(made_up, Config(max_entries=1, max_age=1.0)) == ([], 0)
    os.close(lease)
    assert made_up.cache.entries() == (leased, installed)


async def test_a_damaged_entry_goes_with_its_last_lease(made_up: MadeUp) -> None:
    entry = make(made_up.cache).entry
    lease = made_up.lease(entry)
    entry.is_damaged = True
    assert await prune(made_up, Config()) == ([], 0)
    os.close(lease)
    await eventually(lambda: made_up.cache.entries() == ())


async def test_what_another_program_removed_is_not_listed_any_more(made_up: MadeUp) -> None:
    gone, leased, there = (
        make(made_up.cache, release).entry for release in (RELEASE, OTHER, Release("6.9.0"))
    )
    lease = made_up.lease(leased)
    for entry in (gone, leased):
        shutil.rmtree(entry.directory)
    assert (await prune(made_up, Config(max_age=None)))[0] == []
    assert set(made_up.cache.entries()) == {leased, there}, "the first run, in the background"
    assert [name for name, _ in made_up.told.removed] == [gone.name]
    os.close(lease)
    await eventually(lambda: made_up.cache.entries() == (there,))


async def test_leftovers(made_up: MadeUp) -> None:
    now = time.time_ns() // 1000
    leased = leftover(made_up, Stay.LEASED, "leased")
    leftover(made_up, Stay.OTHER_VERSION, "old")
    fresh = leftover(made_up, Stay.OTHER_VERSION, "fresh", last_used=now)
    leftover(made_up, Stay.NOT_REMOVED, "not-removed", last_used=now)
    _, freed = await prune(made_up, Config(max_age=3600.0))
    assert set(made_up.cache.leftovers) == {leased, fresh}
    assert names(made_up.cache.directory) == [".fresh", ".leased"]
    assert freed == 0, "the first run, in the background, has freed it"


async def test_another_version_that_is_leased_stays(made_up: MadeUp) -> None:
    old = leftover(made_up, Stay.OTHER_VERSION, "old")
    lease = made_up.leases.grant("old", RELEASE, ":1.1", 0, 1, "", old.inode)
    await prune(made_up, Config(max_age=1.0))
    assert list(made_up.cache.leftovers) == [old]
    os.close(lease)


async def test_precompiled_headers_go_where_the_entry_stays(made_up: MadeUp) -> None:
    made_up.install(RELEASE)
    entry = make(made_up.cache).entry
    old, newer = make_pch(made_up.cache, entry), make_pch(made_up.cache, entry, key="b", made_at=1)
    await prune(made_up, Config(max_size=entry.bytes - 1, max_age=None))
    assert list(entry.pchs.values()) == [newer], "one is enough"
    assert not old.path.exists()


async def test_precompiled_headers_in_use_stay(made_up: MadeUp) -> None:
    made_up.install(RELEASE)
    entry = make(made_up.cache).entry
    used, leased = make_pch(made_up.cache, entry), make_pch(made_up.cache, entry, key="b")
    used.touch()
    lease = made_up.lease(entry)
    await prune(made_up, Config(max_size=1, max_age=None))
    assert list(entry.pchs.values()) == [used, leased]
    async with made_up.cache.locks.of(entry.name):
        os.close(lease)
        await eventually(lambda: not made_up.leases.held(entry.name))
        await made_up.lifecycle.pruning.prune()
        assert list(entry.pchs.values()) == [used, leased], "something is done with the entry"
    await made_up.lifecycle.pruning.prune()
    assert list(entry.pchs.values()) == [used]
