"""Which headers are there: those of this host, build and file, undamaged, and of a source that is named."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.cache.entry import Entry
from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.errors import NotCached
from kheadersd.events import Event
from kheadersd.headers.existing import ExistingHeaders
from kheadersd.headers.extraction import Extraction, Found
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.progress import unreported
from kheadersd.system.file_identity import stored_identity_at
from tests.support.hosts import OTHER, RELEASE, make_host, put_tree
from tests.support.in_process import LIMITS, Kept, take_headers_away
from tests.support.made_up_cache import archive
from tests.support.made_up_sources import MadeUpSources

REQUEST = Request(RELEASE, Config().sources)
FROM_SYSFS = Request(RELEASE, ("sysfs",))
ORIGIN = "kheaders.tar.xz"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
async def existing(host: Host, state: Parts, journal: Kept) -> AsyncIterator[ExistingHeaders]:
    existing = ExistingHeaders(host, Config(), state.lifecycle, MadeUpSources(host), journal)
    yield existing
    await existing.close()


@pytest.fixture
async def entry(host: Host, state: Parts, tmp_path: Path) -> Entry:
    (tmp_path / ORIGIN).write_bytes(b"an archive")
    found = dataclasses.replace(
        archive(RELEASE, {"include/linux/more.h": b"x"}),
        origin=str(tmp_path / ORIGIN),
        origin_stamp=stored_identity_at(str(tmp_path / ORIGIN)),
    )
    extraction = Extraction(state.lifecycle, host)
    entry, _ = await extraction.entry(Found(FROM_SYSFS, "sysfs", found, LIMITS, None, unreported))
    return entry


def served_entry(existing: ExistingHeaders) -> Entry | None:
    served = existing.ready(FROM_SYSFS)
    return served.entry if served is not None else None


async def test_an_entry_that_is_good(existing: ExistingHeaders, entry: Entry) -> None:
    assert served_entry(existing) is entry
    assert existing.is_cached(RELEASE)
    assert (await existing.lookup(REQUEST)).entry is entry
    assert existing.ready(FROM_SYSFS) == existing.ready(FROM_SYSFS), "the encoded answer is kept with it"


async def test_an_entry_of_a_source_that_is_not_named(existing: ExistingHeaders, entry: Entry) -> None:
    assert existing.ready(Request(RELEASE, ("module-file", "module"))) is None
    with pytest.raises(NotCached):
        await existing.lookup(Request(OTHER, ("sysfs",)))


async def test_an_entry_of_another_host(existing: ExistingHeaders, entry: Entry) -> None:
    entry.record = dataclasses.replace(entry.record, root="/another")
    assert served_entry(existing) is None


async def test_an_entry_of_another_build_of_the_running_kernel(
    existing: ExistingHeaders, entry: Entry, host: Host
) -> None:
    entry.record = dataclasses.replace(entry.record, build_id="0123")
    assert served_entry(existing) is None
    host.build_id = "0123"
    assert served_entry(existing) is entry
    host.build_id, host.running = "4567", OTHER
    assert served_entry(existing) is entry, "the build that runs is of another release"


async def test_an_entry_whose_origin_was_replaced(
    existing: ExistingHeaders, entry: Entry, tmp_path: Path
) -> None:
    (tmp_path / ORIGIN).unlink()
    assert served_entry(existing) is entry, "distributions delete the modules of a kernel that runs"
    (tmp_path / ORIGIN).write_bytes(b"another archive")
    assert served_entry(existing) is None


async def test_an_entry_that_is_damaged(existing: ExistingHeaders, entry: Entry, journal: Kept) -> None:
    (entry.path / "include/linux/kconfig.h").unlink()
    assert served_entry(existing) is None
    assert not existing.is_cached(RELEASE)
    assert len(journal.of(Event.ENTRY_DAMAGED)) == 1


async def test_an_entry_without_headers_is_only_a_base(
    existing: ExistingHeaders, entry: Entry, state: Parts
) -> None:
    without = take_headers_away(state, entry)
    assert served_entry(existing) is None
    assert await existing.base(RELEASE) is without
    assert existing.is_cached(RELEASE)


async def test_a_tree_is_looked_for_before_the_cache(
    existing: ExistingHeaders, entry: Entry, host: Host
) -> None:
    assert existing.ready(REQUEST) is None, "only a longer look tells"
    build = put_tree(host.path("lib/modules", RELEASE, "build"))
    assert (await existing.lookup(REQUEST)).path == build
    served = existing.ready(REQUEST)
    assert served is not None
    assert (served.source, served.entry) == ("tree", None)
    assert served_entry(existing) is entry, "a request that does not name the tree gets the entry"


async def test_the_base_of_a_tree_is_its_copy(existing: ExistingHeaders, entry: Entry, host: Host) -> None:
    assert await existing.base(RELEASE) is entry
    put_tree(host.path("lib/modules", RELEASE, "build"))
    assert await existing.base(RELEASE) is None, "the tree was not copied"


async def test_a_tree_of_a_kernel_with_randomised_structures_is_reported_once(
    existing: ExistingHeaders, host: Host, journal: Kept
) -> None:
    build = put_tree(host.path("lib/modules", RELEASE, "build"))
    with (build / "include/generated/autoconf.h").open("a") as file:
        file.write("#define CONFIG_RANDSTRUCT 1\n")
    for _ in range(2):
        served = await existing.find_tree(RELEASE)
        assert served.warnings
    assert len(journal.of(Event.RANDOMISED)) == 1
