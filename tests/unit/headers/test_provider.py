"""Which source gives the headers, in which order, with which consent, and what the caller is told."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.errors import AccessDenied, Corrupt, KheadersError, NoSpace, NotAvailable, Timeout
from kheadersd.events import Event
from kheadersd.headers.consent import Action
from kheadersd.headers.existing import ExistingHeaders
from kheadersd.headers.extraction import Extraction
from kheadersd.headers.provider import Provider, sources_ahead
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.repository import parse_repository
from tests.support.hosts import RELEASE, make_host, put_tree
from tests.support.in_process import Kept
from tests.support.made_up_cache import archive
from tests.support.made_up_sources import MadeUpCaller, MadeUpSources, nothing

EXTRACT, DOWNLOAD, MANAGE = Action.EXTRACT, Action.DOWNLOAD, Action.MANAGE
REQUEST = Request(RELEASE, Config().sources)
ARCHIVE = archive(RELEASE)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
def sources(host: Host) -> MadeUpSources:
    return MadeUpSources(host)


@pytest.fixture
def caller() -> MadeUpCaller:
    return MadeUpCaller(EXTRACT)


@pytest.fixture
async def provider(
    host: Host, state: Parts, sources: MadeUpSources, journal: Kept
) -> AsyncIterator[Provider]:
    existing = ExistingHeaders(host, Config(), state.lifecycle, sources, journal)
    extraction = Extraction(state.lifecycle, host)
    provider = Provider(Config(), existing, extraction, sources, journal, state.progress)
    yield provider
    await provider.close()
    await existing.close()


async def refusal(provider: Provider, request: Request, caller: MadeUpCaller) -> KheadersError:
    with pytest.raises(KheadersError) as caught:
        await provider.get(request, caller)
    return caught.value


async def test_the_first_source_that_has_headers(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["module-file"].answer = ARCHIVE
    served = await provider.get(REQUEST, caller)
    assert (served.source, served.fresh) == ("module-file", True)
    assert sources.asked() == {"sysfs": 1, "module-file": 1}


async def test_sources_are_asked_in_the_order_of_the_request(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    error = await refusal(provider, Request(RELEASE, ("module", "sysfs")), caller)
    assert isinstance(error, NotAvailable)
    assert error.message == (
        f"no source has headers for {RELEASE}: module: module has none; sysfs: sysfs has none"
    )
    assert sources.asked() == {"module": 1, "sysfs": 1}


async def test_how_they_are_installed_on_this_distribution(
    host: Host, provider: Provider, caller: MadeUpCaller
) -> None:
    host.path("etc").mkdir()
    host.path("etc/os-release").write_text("ID=fedora\nPRETTY_NAME='Fedora 43'\n")
    error = await refusal(provider, Request(RELEASE, ("sysfs",)), caller)
    assert error.message.endswith(
        f"; to have them: 'dnf install kernel-devel-{RELEASE}' installs those of Fedora 43's own kernels"
    )


async def test_a_source_that_is_of_no_use_is_passed_over(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = Corrupt("it is damaged")
    sources.made_up["module-file"].answer = ARCHIVE
    assert (await provider.get(REQUEST, caller)).source == "module-file"


async def test_what_was_of_no_use_is_told_if_nothing_else_is_found(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["module-file"].answer = Corrupt("it is damaged")
    error = await refusal(provider, Request(RELEASE, ("sysfs", "module-file")), caller)
    assert isinstance(error, Corrupt)
    assert error.message == "it is damaged (also tried: sysfs: sysfs has none)"


async def test_an_archive_of_no_use_is_as_a_source_of_no_use(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = archive("5.10.0-other")
    sources.made_up["module-file"].answer = ARCHIVE
    assert (await provider.get(REQUEST, caller)).source == "module-file"


async def test_a_full_disk_ends_the_search(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = NoSpace("the disk is full")
    sources.made_up["module-file"].answer = ARCHIVE
    assert isinstance(await refusal(provider, REQUEST, caller), NoSpace)
    assert sources.asked() == {"sysfs": 1}


async def test_a_damaged_archive_in_sysfs_is_not_read_again_from_the_module(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = Corrupt("it is damaged")
    await refusal(provider, Request(RELEASE, ("sysfs", "module")), caller)
    assert sources.asked() == {"sysfs": 1}


async def test_a_source_that_does_not_answer(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    provider.configure(Config(extract_timeout=0.01))
    sources.made_up["sysfs"].may_answer.clear()
    error = await refusal(provider, Request(RELEASE, ("sysfs",)), caller)
    assert isinstance(error, Timeout)
    assert "ExtractTimeout=" in error.message


async def test_what_is_there_takes_no_consent(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = ARCHIVE
    first = await provider.get(REQUEST, caller)
    other = MadeUpCaller()
    again = await provider.get(REQUEST, other)
    assert (again.entry, again.fresh, other.asked) == (first.entry, False, [])
    assert sources.asked() == {"sysfs": 1}


async def test_a_refresh_takes_another_consent(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = ARCHIVE
    await provider.get(REQUEST, caller)
    refresh = dataclasses.replace(REQUEST, refresh=True)
    assert isinstance(await refusal(provider, refresh, caller), AccessDenied)
    assert (await provider.get(refresh, MadeUpCaller(EXTRACT, MANAGE))).fresh
    assert sources.asked() == {"sysfs": 2}


async def test_callers_of_the_same_time_share_the_work(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = ARCHIVE
    other = MadeUpCaller()
    answers = await asyncio.gather(provider.get(REQUEST, caller), provider.get(REQUEST, other))
    assert len({served.entry for served in answers}) == 1
    assert sources.asked() == {"sysfs": 1}
    assert other.asked == [], "the result is readable for every user"


async def test_a_caller_that_may_not_extract(provider: Provider, sources: MadeUpSources) -> None:
    assert isinstance(await refusal(provider, REQUEST, MadeUpCaller()), AccessDenied)
    assert sources.asked() == {}


async def test_a_refused_download_is_one_reason_among_others(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    error = await refusal(provider, REQUEST, caller)
    assert isinstance(error, NotAvailable)
    assert "package: you may not org.kheaders.provide.download" in error.message
    assert "package" not in sources.asked()


async def test_a_refused_download_alone_is_what_the_caller_is_told(
    provider: Provider, caller: MadeUpCaller
) -> None:
    error = await refusal(provider, Request(RELEASE, ("package",)), caller)
    assert isinstance(error, AccessDenied)


async def test_a_download_is_noted_in_the_journal(
    provider: Provider, sources: MadeUpSources, journal: Kept
) -> None:
    sources.made_up["package"].answer = ARCHIVE
    served = await provider.get(Request(RELEASE, ("package",)), MadeUpCaller(DOWNLOAD))
    assert served.source == "package"
    assert len(journal.of(Event.DOWNLOAD_STARTED)) == 1


async def test_a_tree_in_place_takes_no_consent(
    provider: Provider, sources: MadeUpSources, host: Host
) -> None:
    build = put_tree(host.path("lib/modules", RELEASE, "build"))
    served = await provider.get(REQUEST, MadeUpCaller())
    assert (served.source, served.path, served.entry) == ("tree", build, None)
    assert sources.asked() == {}


async def test_a_tree_in_place_is_copied_once(provider: Provider, host: Host, caller: MadeUpCaller) -> None:
    put_tree(host.path("lib/modules", RELEASE, "build"))
    served = await provider.get(REQUEST, caller)
    with pytest.raises(AccessDenied):
        await provider.copied(served, MadeUpCaller())
    copy = await provider.copied(served, caller)
    assert copy.entry is not None
    other = MadeUpCaller()
    assert (await provider.copied(served, other)).entry is copy.entry
    assert other.asked == []
    assert await provider.get_entry(RELEASE, other) is copy.entry


async def test_prefetching_reads_only_the_module_file(provider: Provider, sources: MadeUpSources) -> None:
    for source in sources.made_up.values():
        source.answer = ARCHIVE
    await provider.prefetch(RELEASE)
    await provider.prefetch(RELEASE)
    assert sources.asked() == {"module-file": 1}
    assert (await provider.existing.lookup(REQUEST)).source == "module-file"


async def test_prefetching_a_kernel_without_a_module_file(provider: Provider, sources: MadeUpSources) -> None:
    with pytest.raises(NotAvailable, match="module-file has none"):
        await provider.prefetch(RELEASE)
    sources.made_up["module-file"].answer = Corrupt("it is damaged")
    with pytest.raises(Corrupt, match=r"^it is damaged$"):
        await provider.prefetch(RELEASE)


async def test_headers_of_sources_that_were_not_named_are_not_served(
    provider: Provider, sources: MadeUpSources, caller: MadeUpCaller
) -> None:
    sources.made_up["sysfs"].answer = ARCHIVE
    await provider.get(REQUEST, caller)
    sources.made_up["sysfs"].answer = nothing("sysfs")
    error = await refusal(provider, Request(RELEASE, ("module-file",)), caller)
    assert isinstance(error, NotAvailable)


REPOSITORY = parse_repository("registry.example.org/kernels")
FIRST = Config(registries=(REPOSITORY,), registry_first=True)


async def test_a_registry_is_asked_last_and_only_if_there_is_one(
    provider: Provider, sources: MadeUpSources, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources.made_up["registry"].answer = ARCHIVE
    caller = MadeUpCaller(EXTRACT, DOWNLOAD)
    assert "registry: " not in (await refusal(provider, REQUEST, caller)).message
    sources.registry.configure((REPOSITORY,), accepts_unsigned=False)

    async def ready() -> None:
        pass

    monkeypatch.setattr(sources.registry, "check_ready", ready)
    served = await provider.get(REQUEST, caller)
    assert served.source == "registry"
    assert {"module-file", "package", "registry"} <= sources.asked().keys()


async def test_a_registry_takes_a_consent_of_its_own(provider: Provider, sources: MadeUpSources) -> None:
    sources.made_up["registry"].answer = ARCHIVE
    caller = MadeUpCaller(EXTRACT)
    error = await refusal(provider, Request(RELEASE, ("registry",)), caller)
    assert isinstance(error, NotAvailable)  # none is configured, so that no user is asked for a password
    assert caller.asked == []
    assert sources.asked() == {}


async def test_registries_come_first_ahead_of_any_need(provider: Provider, sources: MadeUpSources) -> None:
    provider.configure(FIRST)
    sources.made_up["registry"].answer = sources.made_up["module-file"].answer = ARCHIVE
    await provider.prefetch(RELEASE)
    assert sources.asked() == {"registry": 1}


@pytest.mark.parametrize("failure", [nothing("registry"), Corrupt("it is not signed"), Timeout("it hangs")])
async def test_the_module_file_comes_after_a_registry_that_fails(
    provider: Provider, sources: MadeUpSources, failure: Exception
) -> None:
    provider.configure(FIRST)
    sources.made_up["registry"].answer = failure
    sources.made_up["module-file"].answer = ARCHIVE
    await provider.prefetch(RELEASE)
    assert (await provider.existing.lookup(REQUEST)).source == "module-file"


def test_what_is_asked_ahead() -> None:
    assert sources_ahead(Config()) == ("module-file",)
    assert sources_ahead(FIRST) == ("registry", "module-file")
    assert sources_ahead(dataclasses.replace(FIRST, registry_first=False)) == ("module-file",)
    assert sources_ahead(dataclasses.replace(FIRST, registries=())) == ("module-file",)
    assert sources_ahead(dataclasses.replace(FIRST, sources=("tree",))) == ()
