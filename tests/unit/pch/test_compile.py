"""What becomes of a run of the compiler."""

from __future__ import annotations

import os

import pytest

from kheadersd.cache.pch_files import Pch
from kheadersd.errors import CompileFailed, NoSpace
from tests.support.pch_rig import EVERY_USER, MANAGER, Caller, Rig, compiler


def left(rig: Rig) -> list[str]:
    return [name for name in os.listdir(rig.state.cache.directory) if name.startswith(".staging-")]


async def test_what_the_compiler_says_is_in_the_error(rig: Rig) -> None:
    rig.clang.complaint = "In file included from a.h:1:\nb.h:2: error: no type\n"
    with pytest.raises(CompileFailed, match=r"clang-16 cannot compile .*: b.h:2: error: no type$"):
        await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert (rig.clang.compiled, rig.entry.pchs, left(rig)) == (1, {}, [])


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


async def test_what_is_in_use_does_not_make_room_for_everybody(rig: Rig) -> None:
    hour = 3600 * 10**6
    names = ("clang-14", "clang-15", "clang-16", "clang-17")
    rig.compilers.install(*(compiler(name, name[-1]) for name in names))
    for name in names[:3]:
        await rig.provider.get(rig.request(compiler=name), Caller(*EVERY_USER))
    assert len(rig.entry.pchs) == 3, "all are in use"
    for pch in rig.entry.pchs.values():
        pch.last_used -= 2 * hour
    await rig.provider.get(rig.request(compiler=names[3]), Caller(*EVERY_USER))
    assert len(rig.entry.pchs) == 2


async def test_those_of_another_compiler_go(rig: Rig) -> None:
    old = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    rig.compilers.install(compiler(digest="b"))
    await rig.store.remove_outdated_of(rig.entry)
    assert rig.entry.pchs == {}
    assert not old.pch.path.exists()
