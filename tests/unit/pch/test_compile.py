"""What becomes of a run of the compiler."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from kheadersd.cache import pch_files
from kheadersd.cache.pch_files import Pch
from kheadersd.errors import CompileFailed, Corrupt, KheadersError, NoSpace
from kheadersd.events import Event
from kheadersd.headers.consent import Action
from kheadersd.pch import compile as compile_module
from kheadersd.sources.source import NotFound, Reason
from tests.support.hosts import RELEASE
from tests.support.in_process import Kept
from tests.support.made_up_registry import ORIGIN
from tests.support.pch_rig import EVERY_USER, MANAGER, Caller, Rig, compiler


def left(rig: Rig) -> list[str]:
    return [name for name in os.listdir(rig.state.cache.directory) if name.startswith(".staging-")]


async def test_what_the_compiler_says_is_in_the_error(rig: Rig) -> None:
    rig.clang.complaint = "In file included from a.h:1:\nb.h:2: error: no type\n"
    with pytest.raises(CompileFailed, match=r"clang-16 cannot compile .*: b.h:2: error: no type$"):
        await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert (rig.clang.compiled, rig.entry.pchs, left(rig)) == (1, {}, [])


async def test_a_list_that_does_not_compile_is_compiled_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool asks at each of its starts."""
    rig.clang.complaint = "b.h:2: error: no type"
    for _ in range(2):
        with pytest.raises(CompileFailed, match="no type"):
            await rig.provider.get(rig.request("linux/fs.h"), Caller(*MANAGER))
    assert rig.clang.compiled == 1
    with pytest.raises(CompileFailed, match="no type"):
        await rig.provider.get(rig.request("linux/list.h"), Caller(*MANAGER))
    assert rig.clang.compiled == 2
    monkeypatch.setattr(compile_module, "_REMEMBERED", 0.0)
    rig.clang.complaint = ""
    assert (await rig.provider.get(rig.request("linux/fs.h"), Caller(*MANAGER))).fresh


async def test_few_failures_are_remembered_and_none_of_a_profile(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compile_module, "_MAX_FAILURES", 2)
    rig.clang.complaint = "b.h:2: error: no type"
    names = ("fs", "list", "kref", "fs", "kref")
    for headers in (*([f"linux/{name}.h"] for name in names), [], []):
        with pytest.raises(CompileFailed):
            await rig.provider.get(rig.request(*headers), Caller(*MANAGER))
    assert rig.clang.compiled == 6, "all but the last kref"


async def test_what_says_nothing_of_the_headers_is_not_remembered(rig: Rig) -> None:
    rig.clang.complaint = f"error: unable to write: {os.strerror(28)}"
    for _ in range(2):
        with pytest.raises(NoSpace):
            await rig.provider.get(rig.request("linux/fs.h"), Caller(*MANAGER))
    assert rig.clang.compiled == 2


async def test_a_full_disk(rig: Rig) -> None:
    rig.clang.complaint = f"error: unable to write: {os.strerror(28)}"
    with pytest.raises(NoSpace, match="became full while the headers"):
        await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert rig.clang.compiled == 1, "another attempt is of no use"


async def test_complaints_mean_nothing_if_the_compiler_was_replaced_meanwhile(rig: Rig) -> None:
    def upgrade() -> None:
        rig.compilers.install(compiler(digest="b"))
        rig.clang.complaint = "error: libclang is gone" if rig.clang.compiled == 1 else ""

    rig.clang.meanwhile = upgrade
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert (served.compiler.digest[0], rig.clang.compiled) == ("b", 2)


async def test_what_was_compiled_by_another_compiler_is_not_kept(rig: Rig) -> None:
    rig.clang.meanwhile = lambda: rig.compilers.install(compiler(digest="b"))
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert served.pch.record.compiler_digest[0] == "b"
    assert list(rig.entry.pchs.values()) == [served.pch]


# What has to make room


async def made(rig: Rig, *headers: str) -> Pch:
    return (await rig.provider.get(rig.request(*headers), Caller(*MANAGER))).pch


async def test_the_least_recently_used_makes_room(rig: Rig) -> None:
    one, two = [await made(rig, f"linux/{name}.h") for name in ("fs", "list")]
    one.last_used = two.last_used + 1
    assert set(rig.entry.pchs.values()) == {one, two}
    three = await made(rig, "linux/kref.h")
    assert set(rig.entry.pchs.values()) == {one, three}


async def test_a_list_makes_room_for_a_list_first(rig: Rig) -> None:
    rig.store.most = 3
    ahead = await made(rig)
    one, two = [await made(rig, f"linux/{name}.h") for name in ("fs", "list")]
    ahead.last_used, one.last_used = one.last_used - 2, one.last_used - 1
    three = await made(rig, "linux/kref.h")
    assert set(rig.entry.pchs.values()) == {ahead, two, three}
    rig.store.most = 1
    four = await made(rig, "linux/types.h")
    assert set(rig.entry.pchs.values()) == {four}, "where there is no room otherwise"


async def test_what_is_in_use_does_not_make_room_for_everybody(rig: Rig) -> None:
    names = ("clang-14", "clang-15", "clang-16", "clang-17")
    rig.compilers.install(*(compiler(name, name[-1]) for name in names))
    for name in names[:3]:
        await rig.provider.get(rig.request(compiler=name), Caller(*EVERY_USER))
    assert len(rig.entry.pchs) == 3, "all are in use"
    for pch in rig.entry.pchs.values():
        pch.given_at -= 3601
    await rig.provider.get(rig.request(compiler=names[3]), Caller(*EVERY_USER))
    assert len(rig.entry.pchs) == 2


async def test_those_of_another_compiler_go(rig: Rig) -> None:
    old = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    rig.compilers.install(compiler(digest="b"))
    await rig.store.remove_outdated_of(rig.entry)
    assert rig.entry.pchs == {}
    assert not old.pch.path.exists()


DOWNLOADER = (*EVERY_USER, Action.DOWNLOAD)
PCH = b"CPCH of another host"


async def test_what_another_host_compiled(rig: Rig) -> None:
    rig.registry.is_configured, rig.registry.content = True, PCH
    served = await rig.provider.get(rig.request(), Caller(*DOWNLOADER))
    assert served.pch.path.read_bytes() == PCH
    assert (served.pch.record.origin, served.fresh) == (ORIGIN, True)
    assert (rig.clang.compiled, rig.clang.canaries) == (0, 1)
    assert not rig.clang.canary_idle
    assert rig.registry.asked == [f"pch-{served.pch.record.key}"]
    assert left(rig) == []
    (again,) = pch_files.load(rig.entry.directory).values()
    assert again.record == served.pch.record


async def test_the_canary_is_compiled_before_it_has_its_place(rig: Rig) -> None:
    def check() -> None:
        (staging,) = (rig.state.cache.directory / name for name in left(rig))
        assert staging.stat().st_mode & 0o777 == 0o755, "compilers run as other users"
        assert (staging / "prefix.h").exists()
        assert (staging / "include/bpf").is_symlink()
        assert not (rig.entry.directory / "pch").exists()
        seen.append(staging)

    seen: list[Path] = []
    rig.registry.is_configured, rig.registry.content, rig.clang.at_canary = True, PCH, check
    served = await rig.provider.get(rig.request(), Caller(*DOWNLOADER))
    assert len(seen) == 1
    assert any(item.startswith(f"{served.pch.path.parent}/") for item in served.pch.record.text)
    assert not any(str(seen[0]) in item for item in served.pch.record.text)


@pytest.mark.parametrize(
    ("content", "canary_complaint", "failure", "level"),
    [
        (None, "", None, "info"),
        (None, "", NotFound(Reason.UNREADABLE, "gone"), "warning"),
        (PCH, "", Corrupt("not signed"), "warning"),
        (PCH, "", NoSpace("full"), "warning"),
        (b"\x7fELF", "", None, "warning"),
        (b"", "", None, "warning"),
        (PCH, "error: malformed", None, "warning"),
    ],
)
async def test_what_cannot_be_taken_is_compiled(
    rig: Rig,
    content: bytes | None,
    canary_complaint: str,
    failure: NotFound | KheadersError | None,
    level: str,
    journal: Kept,
) -> None:
    rig.registry.is_configured, rig.registry.content, rig.registry.failure = True, content, failure
    rig.clang.canary_complaint = canary_complaint
    served = await rig.provider.get(rig.request(), Caller(*DOWNLOADER))
    assert served.pch.path.read_bytes() == b"precompiled"
    assert (served.pch.record.origin, rig.clang.compiled, left(rig)) == ("", 1, [])
    (told,) = journal.of(Event.PCH_NOT_FETCHED)
    assert told.startswith(f"What bpf-core is precompiled to for {RELEASE} is compiled here: ")
    assert journal.levels[Event.PCH_NOT_FETCHED] == level
    assert served.pch.verify()


async def test_what_is_fetched_counts(rig: Rig) -> None:
    rig.registry.is_configured, rig.registry.content = True, PCH
    rig.store.most = 1
    caller = Caller(*MANAGER, Action.DOWNLOAD)
    first = await rig.provider.get(rig.request("linux/types.h"), caller)
    second = await rig.provider.get(rig.request("linux/list.h"), caller)
    assert list(rig.entry.pchs.values()) == [second.pch]
    assert not first.pch.path.exists()
    assert rig.entry.bytes == rig.entry.record.bytes + len(PCH)


async def test_ahead_it_is_tried_at_a_low_priority(rig: Rig) -> None:
    rig.registry.is_configured, rig.registry.content = True, PCH
    request = dataclasses.replace(rig.request(), ahead=True)
    await rig.provider.get(request, Caller(*DOWNLOADER))
    assert (rig.clang.canaries, rig.clang.canary_idle) == (1, True)


async def test_who_may_not_download(rig: Rig) -> None:
    rig.registry.is_configured, rig.registry.content = True, PCH
    await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert (rig.registry.asked, rig.clang.compiled) == ([], 1)


async def test_without_a_key_nothing_is_fetched(rig: Rig) -> None:
    rig.registry.content = PCH
    await rig.provider.get(rig.request(), Caller(*DOWNLOADER))
    assert (rig.registry.asked, rig.clang.compiled) == ([], 1)


async def test_a_record_of_a_daemon_that_fetched_none(rig: Rig) -> None:
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    file = served.pch.path.with_name("record.json")
    values = json.loads(file.read_text())
    del values["origin"]
    file.write_text(json.dumps(values))
    assert pch_files.load(rig.entry.directory)[served.pch.record.key].record == served.pch.record
    del values["key"]
    file.write_text(json.dumps(values))
    assert pch_files.load(rig.entry.directory) == {}
