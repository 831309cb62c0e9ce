"""vmlinux.h on request: what it costs, and what is made again."""

from __future__ import annotations

import gzip
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.cache.entry import Record
from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.errors import Corrupt, KheadersError, NotAvailable
from kheadersd.headers.consent import Action
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import NoLoader
from kheadersd.journal import Journal
from kheadersd.release import Release
from kheadersd.sandbox.command import Command, Finished
from kheadersd.vmlinux.bpftool import PLACES
from kheadersd.vmlinux.provider import TypesProvider
from tests.support.in_process import NoObserver, Root
from tests.support.made_up_btf import (
    END,
    GUARD,
    PUSH,
    RELEASE,
    TASK,
    make_bzimage,
    make_host,
    make_kernel,
    put,
)
from tests.support.made_up_registry import ORIGIN, Files
from tests.support.pch_rig import Caller

WANTED = Release(RELEASE)
IMAGE = "boot/vmlinuz-{}"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not any(list(Path("/").glob(f"{place[1:]}/bpftool")) for place in PLACES),
    reason="there is no bpftool that is taken",
)


class Tool:
    """A `Run` that stands for bpftool, and keeps what it was asked."""

    def __init__(self) -> None:
        self.versions = 0
        self.dumps = 0

    async def __call__(self, command: Command) -> Finished:
        if command.words[1:] == ["version"]:
            self.versions += 1
            return Finished(0, "bpftool v7.1.0\n", "")
        assert command.stdout is not None
        self.dumps += 1
        os.write(command.stdout, GUARD + PUSH + TASK + END)
        return Finished(0, "", "")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host", running="6.1.0-1-other")


@pytest.fixture
async def state(host: Host, tmp_path: Path) -> AsyncIterator[Parts]:
    state = Parts(
        host, Config(), tmp_path / "cache", Journal(target="null"), NoLoader("no module"), NoObserver()
    )
    await state.start()
    yield state
    await state.close()


@pytest.fixture
def tool() -> Tool:
    return Tool()


@pytest.fixture
def registry() -> Files:
    return Files()


@pytest.fixture
async def provider(host: Host, state: Parts, tool: Tool, registry: Files) -> AsyncIterator[TypesProvider]:
    provider = TypesProvider(host, state.lifecycle, tool, state.progress, registry)  # type: ignore[arg-type]
    yield provider
    await provider.close()


def put_image(host: Host, release: str) -> Path:
    place = IMAGE.format(release)
    return put(host.root, place, make_bzimage(make_kernel(release=release), gzip.compress))


async def test_releases_that_are_made_up_run_nothing(provider: TypesProvider, host: Host, tool: Tool) -> None:
    put_image(host, RELEASE)
    for number in range(3):
        with pytest.raises(
            NotAvailable, match=rf"no BTF for 9.9.{number}-x: .*6.1.0-1-other, which runs; there is none of"
        ):
            await provider.get(Release(f"9.9.{number}-x"), Root())
    assert (tool.versions, tool.dumps) == (0, 0)


async def test_bpftool_is_found_once(provider: TypesProvider, host: Host, tool: Tool) -> None:
    for release in (RELEASE, "6.1.0-8-test"):
        put_image(host, release)
        assert (await provider.get(Release(release), Root())).fresh
    assert (tool.versions, tool.dumps) == (1, 2)


async def test_the_same_types_from_a_file_that_was_replaced(
    provider: TypesProvider, host: Host, state: Parts, tool: Tool
) -> None:
    image = put_image(host, RELEASE)
    made = await provider.get(WANTED, Root())
    assert await provider.base(WANTED) is made.entry
    os.utime(image, ns=(1, 1))
    assert await provider.base(WANTED) is None
    again = await provider.get(WANTED, Root())
    assert again.entry is made.entry
    assert not again.fresh
    # From now on it is known again, here and by the next daemon that reads the cache.
    assert await provider.base(WANTED) is made.entry
    assert Record.decode((made.entry.directory / "entry.json").read_bytes()) == made.entry.record
    assert made.entry.record.origin == str(image)
    assert tool.dumps == 1


@pytest.fixture
def no_bpftool(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(_: object) -> None:
        raise NotAvailable("there is no bpftool")

    monkeypatch.setattr("kheadersd.vmlinux.provider.find_bpftool", find)


@pytest.mark.usefixtures("no_bpftool")
async def test_without_bpftool_another_hosts_is_taken(
    provider: TypesProvider, host: Host, registry: Files, caplog: pytest.LogCaptureFixture
) -> None:
    put_image(host, RELEASE)
    registry.is_configured, registry.content = True, GUARD + PUSH + TASK + END
    caplog.set_level("INFO")
    made = await provider.get(WANTED, Root())
    assert made.path.read_bytes() == registry.content
    assert (made.fresh, made.entry.record.source) == (True, "registry")
    assert registry.asked == [f"types-{made.entry.record.btf}"]
    assert ORIGIN in caplog.text
    assert (await provider.get(WANTED, Root())).entry is made.entry
    assert len(registry.asked) == 1
    assert "no bpftool" in await provider.why_not_restorable(made.entry)


@pytest.mark.usefixtures("no_bpftool")
@pytest.mark.parametrize(
    ("content", "failure", "why"),
    [
        (None, None, "there is none"),
        (GUARD, None, "is not a complete vmlinux.h"),
        (GUARD + PUSH + TASK + END, Corrupt("not signed"), "not signed"),
    ],
)
async def test_what_is_not_taken(
    provider: TypesProvider,
    host: Host,
    state: Parts,
    registry: Files,
    content: bytes | None,
    failure: KheadersError | None,
    why: str,
) -> None:
    put_image(host, RELEASE)
    registry.is_configured, registry.content, registry.failure = True, content, failure
    with pytest.raises(NotAvailable, match=f"there is no bpftool; and none was fetched: .*{why}"):
        await provider.get(WANTED, Root())
    assert not state.cache.entries()
    assert not [name for name in os.listdir(state.cache.directory) if name.startswith(".staging")]


@pytest.mark.usefixtures("no_bpftool")
@pytest.mark.parametrize("is_configured", [True, False])
async def test_who_may_not_download(
    provider: TypesProvider, host: Host, registry: Files, is_configured: bool
) -> None:
    put_image(host, RELEASE)
    registry.is_configured, registry.content = is_configured, GUARD + PUSH + TASK + END
    caller = Caller(Action.EXTRACT) if is_configured else Root()
    with pytest.raises(NotAvailable, match=r"^there is no bpftool$"):
        await provider.get(WANTED, caller)
    assert registry.asked == []


async def test_with_bpftool_no_registry_is_asked(
    provider: TypesProvider, host: Host, registry: Files, tool: Tool
) -> None:
    put_image(host, RELEASE)
    registry.is_configured, registry.content = True, GUARD + PUSH + TASK + END
    made = await provider.get(WANTED, Root())
    assert (registry.asked, tool.dumps, made.entry.record.source) == ([], 1, "btf")
