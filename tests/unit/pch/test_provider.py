"""Who is served what, and what is compiled for it."""

from __future__ import annotations

import asyncio
import shutil
import time

import pytest

from kheadersd.errors import AccessDenied, CompileFailed, KheadersError, NotAvailable, UnknownProfile
from kheadersd.headers.consent import Action
from kheadersd.host.host import Host
from kheadersd.pch import answers, store
from kheadersd.pch.requests import PchRequest
from tests.support.hosts import RELEASE, hide_from_sysfs
from tests.support.libbcc_lines import LIBRARY
from tests.support.pch_rig import EVERY_USER, MANAGER, Caller, Rig, compiler


async def test_what_was_served_is_ready(rig: Rig) -> None:
    request = rig.request()
    assert rig.provider.ready(request) is None
    served = await rig.provider.get(request, Caller(*EVERY_USER))
    assert served.fresh
    ready = rig.provider.ready(request)
    assert ready is not None
    assert (ready.pch, ready.arguments, ready.fresh) == (served.pch, served.arguments, False)


async def test_nothing_is_ready_of_a_compiler_that_was_upgraded(rig: Rig) -> None:
    await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    rig.compilers.install(compiler(digest="b"))
    assert rig.provider.ready(rig.request()) is None
    assert (await rig.provider.get(rig.request(), Caller(*EVERY_USER))).fresh


async def test_nothing_is_ready_that_was_changed(rig: Rig) -> None:
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    served.pch.path.write_bytes(b"changed")
    assert rig.provider.ready(rig.request()) is None
    assert (await rig.provider.get(rig.request(), Caller(*EVERY_USER))).fresh


async def test_what_is_there_takes_no_authorisation(rig: Rig) -> None:
    with pytest.raises(AccessDenied):
        await rig.provider.get(rig.request(), Caller())
    assert rig.clang.compiled == 0
    await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    user = Caller()
    assert not (await rig.provider.get(rig.request(), user)).fresh
    assert user.asked == []


async def test_a_list_of_headers_takes_one_even_if_it_is_there(rig: Rig) -> None:
    await rig.provider.get(rig.request("linux/list.h"), Caller(*MANAGER))
    user = Caller(*EVERY_USER)
    with pytest.raises(AccessDenied):
        await rig.provider.get(rig.request("linux/list.h"), user)
    assert user.asked == [Action.MANAGE]
    assert rig.provider.ready(rig.request("linux/list.h")) is None


async def test_headers_stay_for_who_may_not_drop_them(rig: Rig) -> None:
    user = Caller(*EVERY_USER)
    served = await rig.provider.get(rig.request(keep_headers=False), user)
    assert Action.MANAGE.value in served.why_kept
    assert rig.entry.has_headers
    assert Action.MANAGE not in user.asked, "no password is asked for"


async def test_dropped_headers_are_not_made_again_for_who_may_not_drop_them(rig: Rig) -> None:
    await rig.provider.get(rig.request(keep_headers=False), Caller(*MANAGER, uid=0))
    served = await rig.provider.get(rig.request(keep_headers=False), Caller())
    assert (served.why_kept, served.entry.has_headers, rig.clang.compiled) == ("", False, 1)


async def test_a_tool_drops_only_what_came_back_for_it(rig: Rig) -> None:
    """Another tool has no lease on what came back for it, and this one does not know of that."""
    root = Caller(*MANAGER, uid=0)
    fs, other = rig.request("linux/fs.h", drop_restored=True), rig.request("linux/list.h", drop_restored=True)
    served = await rig.provider.get(fs, root)
    assert (served.why_kept, served.entry.has_headers) == ("", True), "they were not dropped before"
    await rig.provider.get(rig.request(keep_headers=False), root)
    for request in (other, other, fs):
        served = await rig.provider.get(request, root)
        assert (served.why_kept, served.entry.has_headers) == ("", False)
    await rig.provider.get(rig.request(), root)
    for request in (fs, rig.request("linux/kref.h", drop_restored=True)):
        served = await rig.provider.get(request, root)
        assert (served.why_kept, served.entry.has_headers) == ("", True)


async def test_a_tool_drops_nothing_that_a_program_was_given_meanwhile(rig: Rig) -> None:
    def give() -> None:
        rig.entry.given_at = time.monotonic()

    root = Caller(*MANAGER, uid=0)
    await rig.provider.get(rig.request(keep_headers=False), root)
    rig.clang.meanwhile = give
    served = await rig.provider.get(rig.request("linux/fs.h", drop_restored=True), root)
    assert "less than ten minutes ago" in served.why_kept
    assert rig.entry.has_headers


async def test_dropped_headers_do_not_come_back_for_what_does_not_compile(rig: Rig) -> None:
    root = Caller(*MANAGER, uid=0)
    rig.clang.complaint = "error: no type"
    with pytest.raises(CompileFailed):
        await rig.provider.get(rig.request("linux/fs.h"), root)
    rig.clang.complaint = ""
    await rig.provider.get(rig.request(keep_headers=False), root)
    with pytest.raises(CompileFailed):
        await rig.provider.get(rig.request("linux/fs.h", drop_restored=True), root)
    assert not rig.entry.has_headers


async def test_dropped_headers_are_made_again_for_who_wants_them(rig: Rig) -> None:
    await rig.provider.get(rig.request(keep_headers=False), Caller(*MANAGER, uid=0))
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert (served.entry.has_headers, rig.clang.compiled) == (True, 1)


async def test_without_its_source_what_was_made_is_still_served(rig: Rig, host: Host) -> None:
    await rig.provider.get(rig.request(keep_headers=False), Caller(*MANAGER, uid=0))
    hide_from_sysfs(host)
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert not served.entry.has_headers
    rig.compilers.install(compiler("clang-17"))
    with pytest.raises(NotAvailable, match="no source has headers"):
        await rig.provider.get(rig.request(), Caller(*EVERY_USER))


async def test_many_callers_share_one_compilation(rig: Rig) -> None:
    asking = [rig.provider.get(rig.request(), Caller(*EVERY_USER)) for _ in range(5)]
    served = await asyncio.gather(*asking)
    assert len({each.pch for each in served}) == rig.clang.compiled == 1


async def test_an_entry_that_is_damaged_meanwhile_is_compiled_again(rig: Rig) -> None:
    def damage() -> None:
        if rig.clang.compiled == 1:
            shutil.rmtree(rig.entry.path / "include/linux")

    rig.clang.meanwhile = damage
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert (served.fresh, rig.clang.compiled) == (True, 2)


async def test_it_is_not_tried_for_ever(rig: Rig) -> None:
    rig.clang.meanwhile = lambda: shutil.rmtree(rig.entry.path / "include/linux")
    with pytest.raises(KheadersError, match="changed again and again"):
        await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert rig.clang.compiled == 3


async def test_the_compiler_that_is_asked_for(rig: Rig) -> None:
    rig.compilers.install(compiler("clang-16"), compiler("clang-17", "b"))
    served = await rig.provider.get(rig.request(compiler="clang-16"), Caller(*EVERY_USER))
    assert served.compiler.name == "clang-16"
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    assert served.compiler.name == "clang-17"
    assert rig.clang.compiled == 2


async def test_a_profile_that_there_is_not(rig: Rig) -> None:
    with pytest.raises(UnknownProfile, match=r"'nope'; there are .*bpf-core, bpf-tracing"):
        await rig.provider.get(PchRequest(RELEASE, "nope"), Caller(*EVERY_USER))


async def test_libbcc_names_the_compiler(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (answers, store):
        monkeypatch.setattr(module, "LIBBCC", rig.library)
    rig.compilers.install(compiler("clang-16"), compiler("clang-19"))
    caller, request = Caller(*EVERY_USER), PchRequest(RELEASE, "bcc-small")
    served = await rig.provider.get(request, caller)
    assert (served.compiler.name, served.library) == ("clang-19", LIBRARY.digest)
    assert set(caller.asked) == {Action.EXTRACT}
    assert not (await rig.provider.get(request, Caller())).fresh
    rig.library.replace()
    assert not (await rig.provider.get(request, Caller())).fresh, "the same library, looked at again"
    with pytest.raises(NotAvailable, match="accepts nothing from clang-16; name clang-19"):
        await rig.provider.get(PchRequest(RELEASE, "bcc-small", compiler="clang-16"), caller)


async def test_nothing_is_extracted_for_a_library_that_is_missing(rig: Rig) -> None:
    rig.library.now = None
    caller = Caller(*EVERY_USER)
    with pytest.raises(NotAvailable, match="libbcc is not installed"):
        await rig.provider.get(PchRequest(RELEASE, "bcc-small"), caller)
    assert list(rig.state.cache.entries()) == []
    assert caller.asked == []
