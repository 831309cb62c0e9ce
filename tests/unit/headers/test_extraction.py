"""From an archive to an entry: what is used again, and what is refused."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.daemon.parts import Parts
from kheadersd.errors import Corrupt, ReleaseMismatch
from kheadersd.headers.extraction import Extraction, Found
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.progress import unreported
from kheadersd.sources.source import Archive
from kheadersd.system.disk import Vanished
from tests.support.hosts import RELEASE, make_host
from tests.support.in_process import LIMITS, take_headers_away
from tests.support.made_up_cache import archive

ARCHIVE = archive(RELEASE)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
def extraction(state: Parts, host: Host) -> Extraction:
    return Extraction(state.lifecycle, host)


def found(archive: Archive = ARCHIVE, *, refresh: bool = False, ahead: bool = False) -> Found:
    request = Request(RELEASE, ("sysfs",), refresh=refresh, ahead=ahead)
    return Found(request, "sysfs", archive, LIMITS, 1000, unreported)


async def test_an_archive_that_was_extracted_is_not_extracted_again(extraction: Extraction) -> None:
    entry, fresh = await extraction.entry(found())
    assert fresh
    assert await extraction.entry(found()) == (entry, False)
    again, fresh = await extraction.entry(found(refresh=True))
    assert fresh
    assert again is not entry


async def test_where_the_archive_is_found_now_is_noted(extraction: Extraction) -> None:
    entry, _ = await extraction.entry(found())
    moved = dataclasses.replace(
        found(dataclasses.replace(ARCHIVE, origin="/lib/kheaders.ko")), source="module-file"
    )
    assert await extraction.entry(moved) == (entry, False)
    assert (entry.record.source, entry.record.origin) == ("module-file", "/lib/kheaders.ko")
    assert '"/lib/kheaders.ko"' in (entry.directory / "entry.json").read_text()


async def test_a_damaged_entry_is_extracted_again(extraction: Extraction) -> None:
    entry, _ = await extraction.entry(found())
    (entry.path / "include/linux/kconfig.h").unlink()
    again, fresh = await extraction.entry(found())
    assert fresh
    assert again is not entry


async def test_dropped_headers_come_back_for_a_caller_only(extraction: Extraction, state: Parts) -> None:
    entry, _ = await extraction.entry(found(archive(RELEASE, {"include/linux/more.h": b"x"})))
    without = take_headers_away(state, entry)
    more = archive(RELEASE, {"include/linux/more.h": b"x"})
    assert await extraction.entry(found(more, ahead=True)) == (without, False)
    back, fresh = await extraction.entry(found(more))
    assert fresh
    assert back.has_headers


async def test_requests_of_the_same_time_share_one_extraction(extraction: Extraction) -> None:
    one, other = await asyncio.gather(extraction.entry(found()), extraction.entry(found()))
    assert one == other
    assert one[1] is True


async def test_headers_of_another_kernel(extraction: Extraction, state: Parts) -> None:
    with pytest.raises(ReleaseMismatch, match=r"is of kernel 5\.10\.0-other, not of") as caught:
        await extraction.entry(found(archive("5.10.0-other")))
    assert str(state.cache.directory) not in caught.value.message
    assert state.cache.entries() == ()


async def test_headers_with_which_nothing_compiles(extraction: Extraction, state: Parts) -> None:
    reason = r"include/linux/types\.h is empty; the archive has no usable headers"
    with pytest.raises(Corrupt, match=reason) as caught:
        await extraction.entry(found(archive(RELEASE, {"include/linux/types.h": b""})))
    assert str(state.cache.directory) not in caught.value.message


@pytest.mark.parametrize("times", [2, 3])
async def test_a_program_that_removes_the_cache_meanwhile(
    extraction: Extraction, state: Parts, times: int
) -> None:
    """Twice does no harm, and three times are a failure."""
    removals = 0

    def pieces() -> Iterator[bytes]:
        nonlocal removals
        yield from ARCHIVE.layers[0].chunks()
        if removals < times:
            removals += 1
            for staged in state.cache.directory.glob(".staging*"):
                shutil.rmtree(staged)

    removing = dataclasses.replace(ARCHIVE, layers=(dataclasses.replace(ARCHIVE.layers[0], chunks=pieces),))
    if times < 3:
        assert (await extraction.entry(found(removing)))[1]
    else:
        with pytest.raises(Vanished):
            await extraction.entry(found(removing))
    assert removals == times
