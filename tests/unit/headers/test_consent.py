"""Which callers are asked, and about what, before headers are extracted or downloaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kheadersd.config import Config
from kheadersd.errors import AccessDenied, LimitsExceeded, Timeout
from kheadersd.headers.consent import Action, Consent
from kheadersd.headers.requests import Request
from kheadersd.sources.registry import RegistrySource
from kheadersd.sources.source import NotFound
from kheadersd.system.tasks import SharedWork
from tests.support.hosts import RELEASE, make_host
from tests.support.made_up_sources import MadeUpCaller, MadeUpPackages, nothing

REQUEST = Request(RELEASE, ("sysfs",))
CONFIG = Config()


@pytest.fixture
def packages(tmp_path: Path) -> MadeUpPackages:
    return MadeUpPackages(make_host(tmp_path / "host"), tmp_path / "apt")


@pytest.fixture
def work() -> SharedWork:
    return SharedWork()


@pytest.fixture
def consent(packages: MadeUpPackages, work: SharedWork, tmp_path: Path) -> Consent:
    registry = RegistrySource(make_host(tmp_path / "other"), tmp_path / "registry")
    return Consent(packages, registry, work)


async def test_callers_of_the_same_time_are_asked_once(consent: Consent, work: SharedWork) -> None:
    first, second = MadeUpCaller(Action.EXTRACT), MadeUpCaller(Action.EXTRACT)
    uids = []

    async def get(caller: MadeUpCaller) -> None:
        uids.append(await consent.to_extract(REQUEST, caller))
        await work.share(REQUEST, lambda: asyncio.sleep(0))

    await asyncio.gather(get(first), get(second))
    assert (first.asked, second.asked) == ([Action.EXTRACT], [])
    assert sorted(uids, key=str) == [1000, None]


async def test_a_caller_is_asked_after_another_was_refused(consent: Consent) -> None:
    first, second = MadeUpCaller(), MadeUpCaller(Action.EXTRACT)
    refused, uid = await asyncio.gather(
        consent.to_extract(REQUEST, first), consent.to_extract(REQUEST, second), return_exceptions=True
    )
    assert isinstance(refused, AccessDenied)
    assert uid == 1000


async def test_a_caller_does_not_wait_for_another_that_does_not_answer(consent: Consent) -> None:
    silent = MadeUpCaller(Action.EXTRACT)
    silent.may_answer.clear()
    waiting = asyncio.create_task(consent.to_extract(REQUEST, silent))
    await asyncio.sleep(0)
    assert await consent.to_extract(REQUEST, MadeUpCaller(Action.EXTRACT)) == 1000
    assert not waiting.done()
    silent.may_answer.set()
    await waiting


async def test_no_password_is_asked_for_where_there_is_no_package(
    consent: Consent, packages: MadeUpPackages
) -> None:
    packages.offer = nothing("package")
    caller = MadeUpCaller(Action.DOWNLOAD, is_interactive=True)
    with pytest.raises(NotFound):
        await consent.to_download(RELEASE, caller, CONFIG)
    assert caller.asked == []


async def test_a_caller_that_cannot_be_asked_costs_no_query(
    consent: Consent, packages: MadeUpPackages
) -> None:
    with pytest.raises(AccessDenied):
        await consent.to_download(RELEASE, MadeUpCaller(), CONFIG)
    assert packages.looked == 0


async def test_a_package_that_is_not_offered_is_not_downloaded(
    consent: Consent, packages: MadeUpPackages
) -> None:
    packages.offer = nothing("package")
    with pytest.raises(NotFound):
        await consent.to_download(RELEASE, MadeUpCaller(Action.DOWNLOAD), CONFIG)


async def test_queries_that_wait_are_bounded(consent: Consent, packages: MadeUpPackages) -> None:
    answers = await asyncio.gather(
        *(consent.to_download(RELEASE, MadeUpCaller(Action.DOWNLOAD), CONFIG) for _ in range(65)),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers if answer != 1000] == [LimitsExceeded]
    assert packages.looked == 64
    assert await consent.to_download(RELEASE, MadeUpCaller(Action.DOWNLOAD), CONFIG) == 1000


async def test_a_package_manager_that_does_not_answer(
    consent: Consent, packages: MadeUpPackages, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: object) -> str | None:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(packages, "offered", hang)
    with pytest.raises(Timeout, match="DownloadTimeout="):
        await consent.to_download(
            RELEASE, MadeUpCaller(Action.DOWNLOAD), Config(download_timeout=0.01, extract_timeout=None)
        )
