"""Whether a source can give headers again: decided from what is on the host, in doubt it cannot."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from kheadersd.cache.entry import Entry
from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.errors import Corrupt
from kheadersd.headers import restore
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.sources.installed_tree import TreeSource
from kheadersd.sources.source import Tree
from tests.support.archives import make_kheaders
from tests.support.hosts import RELEASE, make_host, make_module, put_tree, show_in_sysfs
from tests.support.in_process import Root
from tests.support.made_up_sources import MadeUpSources, nothing

ARCHIVE = make_kheaders(RELEASE)
OTHER_ARCHIVE = make_kheaders(RELEASE, {"include/linux/other.h": b"x"})


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


def put_module(host: Host, archive: bytes = ARCHIVE) -> Path:
    path = host.path("lib/modules", RELEASE, "kernel/kernel/kheaders.ko")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_module(archive))
    return path


async def made(state: Parts, source: str) -> Entry:
    await state.provider.get(Request(RELEASE, (source,)), Root())
    (entry,) = state.cache.entries()
    return entry


async def why_not_restorable(
    state: Parts,
    entry: Entry,
    sources: Sequence[str] = Config().sources,
    seconds: float | None = Config().extract_timeout,
) -> str:
    state.provider.configure(Config(sources=tuple(sources), extract_timeout=seconds))
    return await state.provider.why_not_restorable(entry)


async def test_a_module_file(host: Host, state: Parts) -> None:
    path = put_module(host)
    entry = await made(state, "module-file")
    assert await why_not_restorable(state, entry) == ""
    assert "module-file: " not in await why_not_restorable(state, entry, ["sysfs", "module"])
    put_module(host, OTHER_ARCHIVE)
    assert "has another archive" in await why_not_restorable(state, entry)
    put_module(host).write_bytes(b"damaged")
    assert "module-file: " in await why_not_restorable(state, entry)
    put_module(host)
    assert await why_not_restorable(state, entry) == ""
    # As distributions do while the kernel still runs.
    path.unlink()
    assert "module-file: there is no kheaders.ko" in await why_not_restorable(state, entry)


async def test_what_the_kernel_shows(host: Host, state: Parts) -> None:
    show_in_sysfs(host, ARCHIVE, builtin=True)
    entry = await made(state, "sysfs")
    assert await why_not_restorable(state, entry) == ""
    show_in_sysfs(host, ARCHIVE)
    assert "goes with the module" in await why_not_restorable(state, entry)
    put_module(host)
    assert await why_not_restorable(state, entry) == ""


async def test_a_tree(host: Host, state: Parts) -> None:
    build = put_tree(host.path("lib/modules", RELEASE, "build"))
    entry = await state.provider.get_entry(RELEASE, Root())
    assert entry.record.source == "tree"
    assert await why_not_restorable(state, entry) == ""
    # It is usable, and cannot be copied any more.
    hidden = build / "include/linux/types.h"
    hidden.chmod(0o600)
    assert "types.h is not copied" in await why_not_restorable(state, entry)
    hidden.chmod(0o644)
    assert await why_not_restorable(state, entry) == ""
    shutil.rmtree(build)
    assert "tree: there is no" in await why_not_restorable(state, entry)


async def test_a_source_that_does_not_answer(
    host: Host, state: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file system of another machine: ExtractTimeout= holds."""

    async def hang(*_: object) -> Tree:
        await asyncio.Event().wait()
        raise AssertionError

    put_module(host)
    entry = await made(state, "module-file")
    monkeypatch.setattr(TreeSource, "find", hang)
    assert "took longer than 0.01 s" in await why_not_restorable(state, entry, ["tree"], 0.01)


async def of_made_up(sources: MadeUpSources, entry: Entry, *names: str) -> str:
    return await restore.why_not_restorable(entry, sources, Config(sources=names))


async def test_packages(host: Host, state: Parts) -> None:
    show_in_sysfs(host, ARCHIVE)
    entry = await made(state, "sysfs")
    sources = MadeUpSources(host)
    assert await of_made_up(sources, entry, "package") == (
        "package: whether there is a package is only known after a download"
    )
    sources.package.offer = nothing("package")
    assert await of_made_up(sources, entry, "package") == "package: package has none"
    sources.package.offer = "linux-headers 1"
    assert await of_made_up(sources, entry, "package") == ""


async def test_one_source_that_can_is_enough(host: Host, state: Parts) -> None:
    show_in_sysfs(host, ARCHIVE)
    entry = await made(state, "sysfs")
    sources = MadeUpSources(host)
    sources.made_up["module-file"].answer = Corrupt("it is damaged")
    assert await of_made_up(sources, entry) == "no sources are configured"
    assert await of_made_up(sources, entry, "module", "module-file") == (
        "module: whether it has them is only known by trying; module-file: it is damaged"
    )
    assert "module" not in sources.asked(), "nothing is loaded for it"
    sources.package.offer = "linux-headers 1"
    assert await of_made_up(sources, entry, "module-file", "package", "sysfs") == ""
    assert "sysfs" not in sources.asked()
