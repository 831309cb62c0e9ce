"""Which precompiled headers are made before a caller asks, and when headers are dropped for them."""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import pytest

from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.errors import NoSpace, NotAvailable
from kheadersd.events import Event
from kheadersd.host.host import Host
from kheadersd.host.installed_kernels import Change
from kheadersd.pch import ahead as module
from kheadersd.pch.ahead import Ahead
from kheadersd.pch.requests import PchRequest
from kheadersd.release import Release
from kheadersd.system.inotify import Inotify
from tests.support.clients import eventually
from tests.support.hosts import OTHER, RELEASE, put_kernel
from tests.support.in_process import Kept
from tests.support.pch_rig import EVERY_USER, MANAGER, Caller, Rig, compiler

NONE: frozenset[Release] = frozenset()
NOTHING = Change(NONE, NONE, NONE, NONE)


class Looks:
    """An `Ahead` over a rig.

    Attributes:
        watched: the directories that are watched.
        changes: how often it told of a change.
    """

    def __init__(self, host: Host, state: Parts, rig: Rig, journal: Kept, directory: Path) -> None:
        self.pch, self.profiles, self.store = rig.provider, rig.profiles, rig.store
        self.header_removal = rig.header_removal
        self.rig = rig
        self.watched = [directory]
        self.changes = 0
        self.ahead = Ahead(host, Config(), state.cache, lambda: self, journal, self._changed)

    def watched_directories(self) -> list[Path]:
        return self.watched

    def configure(
        self, *profiles: str, compilers: tuple[str, ...] = (), drop_headers: bool = False, most: int = 32
    ) -> None:
        self.store.most = most
        self.ahead.configure(
            dataclasses.replace(
                Config(),
                ahead_profiles=profiles,
                ahead_compilers=compilers,
                ahead_drop_headers=drop_headers,
                max_pchs=most,
            )
        )

    async def look(self, change: Change = NOTHING) -> dict[str, object]:
        """Have it look, and return what it tells then."""
        before = self.changes
        self.ahead.follow(change)
        self.ahead.start()
        await eventually(lambda: self.changes >= before + 2)
        return self.ahead.describe()

    def _changed(self) -> None:
        self.changes += 1


def has_headers(rig: Rig) -> bool:
    return rig.entry.has_headers


@pytest.fixture
async def looks(host: Host, state: Parts, rig: Rig, journal: Kept, tmp_path: Path) -> AsyncIterator[Looks]:
    directory = tmp_path / "compilers"
    directory.mkdir()
    looks = Looks(host, state, rig, journal, directory)
    yield looks
    await looks.ahead.close()


async def test_nothing_is_made_before_the_daemon_is_ready(looks: Looks, rig: Rig) -> None:
    looks.configure("bpf-core")
    looks.ahead.follow(NOTHING)
    assert looks.ahead.describe()["state"] == "waiting"
    state = await looks.look()
    assert (state["state"], state["wanted"], state["made"], state["problems"]) == ("done", 1, 1, [])
    assert rig.clang.compiled == 1
    assert rig.clang.idle == [True]


async def test_without_names_nothing_is_loaded(host: Host, state: Parts, journal: Kept) -> None:
    def means() -> Looks:
        raise AssertionError("loaded")

    ahead = Ahead(host, Config(), state.cache, means, journal, lambda: None)
    ahead.start()
    ahead.follow(NOTHING)
    ahead.configure(Config(ahead_drop_headers=True))
    assert ahead.describe()["state"] == "off"
    await ahead.close()


async def test_all_profiles_with_all_compilers_and_one_line(looks: Looks, rig: Rig, journal: Kept) -> None:
    rig.compilers.install(compiler(), compiler("clang-19", "b"))
    looks.configure("bpf-core", "bpf-tracing", compilers=("clang-16", "clang-19"))
    assert (await looks.look())["made"] == 4
    assert (await looks.look())["made"] == 4
    assert rig.clang.compiled == 4
    (told,) = journal.of(Event.AHEAD_MADE)
    assert told == f"All 4 precompiled headers of [Ahead] are made, for {RELEASE}"


async def test_more_than_an_entry_may_have(looks: Looks, rig: Rig, journal: Kept) -> None:
    looks.configure("bpf-core", "bpf-tracing", "host-tracing", most=2)
    for _ in range(2):
        state = await looks.look()
        assert (state["wanted"], state["made"]) == (3, 2)
    assert rig.clang.compiled == 2
    (told,) = journal.of(Event.AHEAD_PCH_FAILED)
    assert "host-tracing" in told
    assert "MaxPCHs=" in told


async def test_failures_are_told_once_and_tried_again(looks: Looks, rig: Rig, journal: Kept) -> None:
    looks.configure("bpf-core", "no-such", compilers=("clang-16", "clang-19"), drop_headers=True)
    for _ in range(2):
        state = await looks.look()
        assert (state["state"], state["wanted"], state["made"]) == ("failed", 3, 1)
    assert has_headers(rig), "not all are made"
    unknown, missing = journal.of(Event.AHEAD_PCH_FAILED)
    assert "no-such" in unknown
    assert f"bpf-core of {RELEASE} with clang-19" in missing
    assert journal.of(Event.AHEAD_MADE) == []
    rig.compilers.install(compiler(), compiler("clang-19", "b"))
    assert (await looks.look())["made"] == 2
    looks.configure("bpf-core", compilers=("clang-16", "clang-19"))
    assert (await looks.look())["problems"] == []


async def test_what_a_compiler_was_upgraded_under_is_made_again(
    looks: Looks, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SETTLE", 0.1)
    looks.configure("bpf-core")
    await looks.look()
    (before,) = rig.entry.pchs
    rig.compilers.install(compiler(digest="b"))
    (looks.watched[0] / "clang-16").touch()
    await eventually(lambda: rig.clang.compiled == 2 and looks.ahead.describe()["state"] == "done")
    assert before not in rig.entry.pchs
    assert looks.ahead.describe()["made"] == 1


async def test_what_no_compiler_reads_any_more_goes(looks: Looks, rig: Rig, state: Parts) -> None:
    looks.configure("bpf-core")
    await looks.look()
    await eventually(lambda: not state.cache.locks.is_held(rig.entry))  # it is written to the disk
    rig.compilers.install(compiler("clang-19", "b"))
    looks.configure("bpf-core", compilers=("clang-20",))
    await looks.look()
    assert rig.entry.pchs == {}


async def test_a_directory_that_was_not_watched_is_looked_at_again(looks: Looks, tmp_path: Path) -> None:
    found = iter([looks.watched])
    looks.watched = [*looks.watched, tmp_path]
    looks.watched_directories = lambda: next(found, looks.watched)  # type: ignore[method-assign]
    looks.configure("bpf-core")
    before = looks.changes
    await looks.look()
    # Once more: something may have changed there before.
    await eventually(lambda: looks.changes >= before + 4)


async def test_profiles_for_bcc_have_the_compiler_of_libbcc(
    looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    async def get(request: PchRequest, _: object) -> NoReturn:
        asked.append((request.profile, request.compiler))
        raise NotAvailable("it is a test")

    monkeypatch.setattr(looks.pch, "get", get)
    looks.configure("bpf-core", "bcc-small", compilers=("clang-16", "clang-19"))
    await looks.look()
    assert asked == [("bpf-core", "clang-16"), ("bpf-core", "clang-19"), ("bcc-small", "")]


async def test_a_failure_of_the_cache_is_not_the_end(
    looks: Looks, monkeypatch: pytest.MonkeyPatch, journal: Kept
) -> None:
    async def fail() -> NoReturn:
        raise NoSpace("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(looks.store, "remove_outdated", fail)
        looks.configure("bpf-core")
        assert (await looks.look())["state"] == "failed"
    assert journal.of(Event.REQUEST_FAILED) == ["the disk is full"]
    assert (await looks.look())["made"] == 1


async def test_a_limit_of_watches_is_told_once(
    looks: Looks, monkeypatch: pytest.MonkeyPatch, journal: Kept
) -> None:
    no_more = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/usr/bin")
    monkeypatch.setattr(Inotify, "watch", lambda *_: [no_more])
    looks.configure("bpf-core")
    for _ in range(2):
        assert (await looks.look())["made"] == 1
    limits = journal.of(Event.WATCH_LIMITED)  # of kernels, too
    told = [message for message in limits if message.startswith("A compiler that changes in /usr/bin ")]
    assert len(told) == 1


async def test_kernels_that_come_and_go(looks: Looks, host: Host) -> None:
    looks.configure("bpf-core")
    put_kernel(host, OTHER)
    new = frozenset({OTHER})
    assert (await looks.look(Change(new, new, new, NONE)))["made"] == 2
    assert (await looks.look(Change(NONE, NONE, NONE, new)))["wanted"] == 1
    # One whose module file was removed.
    await looks.look(Change(new, new, new, NONE))
    assert (await looks.look(Change(new, new, NONE, NONE)))["wanted"] == 1


async def test_headers_are_dropped_once(looks: Looks, rig: Rig) -> None:
    looks.configure("bpf-core", drop_headers=True)
    assert (await looks.look())["headers_kept"] == {}
    assert not has_headers(rig)
    await looks.look()
    assert rig.clang.compiled == 1, "what was dropped is not extracted to look at it"
    # A caller needs them: then they stay.
    await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert has_headers(rig)
    assert (await looks.look())["headers_kept"] == {RELEASE: "they were extracted again for a caller"}
    assert has_headers(rig)
    # Until something changes, in the configuration or of what is made.
    looks.configure("bpf-core")
    await looks.look()
    looks.configure("bpf-core", drop_headers=True)
    await looks.look()
    assert not has_headers(rig)
    await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    looks.configure("bpf-core", "bpf-tracing", drop_headers=True)
    await looks.look()
    assert not has_headers(rig)
    assert looks.ahead.describe()["made"] == 2


async def test_headers_in_use_stay_for_now(looks: Looks, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IN_USE_AGAIN", 0.1)
    await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    rig.entry.given_at = time.monotonic()
    looks.configure("bpf-core", drop_headers=True)
    kept = (await looks.look())["headers_kept"]
    assert kept == {RELEASE: "a program was given them less than ten minutes ago"}
    rig.entry.given_at = -math.inf
    await eventually(lambda: not has_headers(rig))


async def test_headers_that_no_source_can_restore_stay(looks: Looks, rig: Rig) -> None:
    rig.why_not_restorable = "the kernel is gone"
    looks.configure("bpf-core", drop_headers=True)
    kept = (await looks.look())["headers_kept"]
    assert kept == {RELEASE: "no source can restore them: the kernel is gone"}
    assert has_headers(rig)


async def test_what_was_removed_meanwhile_is_not_counted(looks: Looks, rig: Rig, state: Parts) -> None:
    looks.configure("bpf-core")
    await looks.look()
    (pch,) = rig.entry.pchs.values()
    await state.lifecycle.removal.remove_pch(rig.entry, pch, "a test")
    assert looks.ahead.describe()["made"] == 0


async def test_a_request_ahead_is_served_as_it_is(rig: Rig) -> None:
    request = dataclasses.replace(rig.request(), ahead=True)
    await rig.provider.get(request, Caller(*MANAGER))
    await rig.provider.get(rig.request(keep_headers=False), Caller(*MANAGER, uid=0))
    served = await rig.provider.get(request, Caller(*MANAGER))
    assert not served.entry.has_headers
    assert rig.provider.ready(request) is None
