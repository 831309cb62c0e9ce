"""The module that is loaded just to be read."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Corrupt, InUse, ModuleFailed
from kheadersd.events import Event
from kheadersd.host.kernel_module import KernelModule, NoLoader
from kheadersd.sources.loaded_module import ModuleSource
from kheadersd.sources.source import NotFound, Reason
from tests.support.archives import make_kheaders
from tests.support.clients import eventually
from tests.support.hosts import (
    OTHER,
    RELEASE,
    LinkedHost,
    Loader,
    hide_from_sysfs,
    ignore,
    make_host,
    make_module,
    show_in_sysfs,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kheadersd.host.host import Host

ARCHIVE = make_kheaders(RELEASE)
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()
SHORT = "/sys/devices/system/cpu/online"  # every read of it is shorter than its size


class SlowLoader(Loader):
    """Takes its time, so that things can happen meanwhile."""

    async def load(self) -> None:
        await asyncio.sleep(0.05)
        await super().load()

    async def unload(self) -> None:
        await asyncio.sleep(0.05)
        await super().unload()


class LosingLoader(Loader):
    """Another program unloads the module while it is read, the first few times."""

    losses = 1

    async def load(self) -> None:
        await super().load()
        if self.losses:
            self.losses -= 1
            path = self._host.path("sys/kernel/kheaders.tar.xz")
            path.unlink()
            path.symlink_to(SHORT)


class RefusedLoader(Loader):
    async def load(self) -> None:
        self.calls.append("load")
        raise ModuleFailed("kheaders could not be loaded: it is forbidden")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    make_host(tmp_path)
    return LinkedHost(tmp_path)


@pytest.fixture
def loader(host: Host) -> Loader:
    return Loader(host, ARCHIVE)


def installed_module(host: Host) -> Path:
    return host.modules_directory(RELEASE) / "kernel/kernel/kheaders.ko"


def install_module(host: Host) -> None:
    installed_module(host).parent.mkdir(parents=True, exist_ok=True)
    installed_module(host).write_bytes(make_module(ARCHIVE))


def source_with(host: Host, loader: Loader) -> tuple[ModuleSource, KernelModule]:
    install_module(host)
    module = KernelModule(host, loader)
    return ModuleSource(host, module), module


async def test_loaded_read_and_unloaded(host: Host, loader: Loader) -> None:
    source, module = source_with(host, loader)
    archive = await source.find(RELEASE, ignore)
    assert archive.digest == DIGEST
    assert loader.calls == ["load", "unload"]
    assert module.state() == "available"
    assert b"kconfig.h" in b"".join(archive.layers[0].chunks())  # all of it was read in time


async def test_a_module_that_others_loaded_is_used_and_left(host: Host, loader: Loader) -> None:
    show_in_sysfs(host, ARCHIVE)
    source, module = source_with(host, loader)
    assert (await source.find(RELEASE, ignore)).digest == DIGEST
    assert loader.calls == []
    assert module.state() == "loaded"
    assert not module.is_owned


async def test_another_kernel(host: Host, loader: Loader) -> None:
    source, _ = source_with(host, loader)
    with pytest.raises(NotFound) as caught:
        await source.find(OTHER, ignore)
    assert caught.value.reason is Reason.NOT_RUNNING
    assert loader.calls == []


async def test_no_loading_here(host: Host) -> None:
    install_module(host)
    source = ModuleSource(host, KernelModule(host, NoLoader("the host is an image")))
    with pytest.raises(NotFound, match="the host is an image") as caught:
        await source.find(RELEASE, ignore)
    assert caught.value.reason is Reason.UNSUPPORTED


async def test_refused(host: Host) -> None:
    loader = RefusedLoader(host, ARCHIVE)
    source, _ = source_with(host, loader)
    with pytest.raises(ModuleFailed, match="forbidden"):
        await source.find(RELEASE, ignore)
    assert loader.calls == ["load"]


async def test_lost_while_it_is_read(host: Host) -> None:
    loader = LosingLoader(host, ARCHIVE)
    source, module = source_with(host, loader)
    assert (await source.find(RELEASE, ignore)).digest == DIGEST
    assert loader.calls == ["load", "unload"] * 2
    assert module.state() == "available"


async def test_lost_again_and_again(host: Host) -> None:
    loader = LosingLoader(host, ARCHIVE)
    loader.losses = 100
    source, _ = source_with(host, loader)
    with pytest.raises(NotFound) as caught:
        await source.find(RELEASE, ignore)
    assert caught.value.reason is Reason.VANISHED
    assert loader.calls == ["load", "unload"] * 3


async def test_a_damaged_archive_is_unloaded_too(host: Host) -> None:
    loader = Loader(host, ARCHIVE[:-9])
    source, _ = source_with(host, loader)
    with pytest.raises(Corrupt):
        await source.find(RELEASE, ignore)
    assert loader.calls == ["load", "unload"]


async def test_a_failed_unload_is_told_and_no_failure(host: Host, loader: Loader) -> None:
    loader.fails_to_unload = True
    install_module(host)
    told: list[tuple[Event, str]] = []
    module = KernelModule(host, loader, lambda event, message, _: told.append((event, message)))
    source = ModuleSource(host, module)
    assert (await source.find(RELEASE, ignore)).digest == DIGEST
    assert [event for event, _ in told] == [Event.MODULE_LOADED, Event.MODULE_UNLOAD_FAILED]
    assert "it is stuck" in told[1][1]
    assert module.is_owned
    loader.fails_to_unload = False
    assert (await source.find(RELEASE, ignore)).digest == DIGEST
    assert not module.is_owned  # the next occasion is used


@pytest.mark.parametrize("after", [0.0, 0.02, 0.07])
async def test_cancelled_at_any_moment(host: Host, after: float) -> None:
    loader = SlowLoader(host, ARCHIVE)
    source, module = source_with(host, loader)
    finding = asyncio.create_task(source.find(RELEASE, ignore))
    await asyncio.sleep(after)
    for _ in range(3):  # also an impatient user does that
        finding.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await finding
    assert await module.refresh() == "available"
    assert len(asyncio.all_tasks()) == 1
    assert (await source.find(RELEASE, ignore)).digest == DIGEST  # nothing is locked


async def test_two_at_once_do_not_overlap(host: Host) -> None:
    loader = SlowLoader(host, ARCHIVE)
    source, _ = source_with(host, loader)
    await asyncio.gather(source.find(RELEASE, ignore), source.find(RELEASE, ignore))
    assert loader.calls == ["load", "unload"] * 2


async def test_unload_if_idle(host: Host, loader: Loader) -> None:
    _, module = source_with(host, loader)
    assert await module.unload_if_idle() == "available"
    assert loader.calls == []
    show_in_sysfs(host, ARCHIVE)
    with module.in_use(), pytest.raises(InUse, match="being read"):
        await module.unload_if_idle()
    assert await module.unload_if_idle() == "available"


async def test_unload_while_a_request_has_it_loaded(host: Host) -> None:
    loader = SlowLoader(host, ARCHIVE)
    source, module = source_with(host, loader)
    finding = asyncio.create_task(source.find(RELEASE, ignore))
    await eventually(lambda: loader.calls)
    with pytest.raises(InUse):
        await module.unload_if_idle()
    await finding


async def test_a_builtin_one_is_not_unloaded(host: Host, loader: Loader) -> None:
    show_in_sysfs(host, ARCHIVE, builtin=True)
    _, module = source_with(host, loader)
    assert module.state() == "builtin"
    assert await module.unload_if_idle() == "builtin"
    assert loader.calls == []


async def test_recovery_unloads_what_a_predecessor_loaded(host: Host, loader: Loader) -> None:
    show_in_sysfs(host, ARCHIVE)
    loader.left_by_predecessor = True
    _, module = source_with(host, loader)
    await module.recover()
    assert module.state() == "available"


async def test_recovery_leaves_what_others_loaded(host: Host, loader: Loader) -> None:
    show_in_sysfs(host, ARCHIVE)
    _, module = source_with(host, loader)
    await module.recover()
    assert module.state() == "loaded"


async def test_a_kernel_without_the_module(host: Host, loader: Loader) -> None:
    source, _ = source_with(host, loader)
    installed_module(host).unlink()
    with pytest.raises(NotFound) as caught:
        await source.find(RELEASE, ignore)
    assert caught.value.reason is Reason.MISSING
    assert loader.calls == []


async def test_states(host: Host, loader: Loader) -> None:
    module = KernelModule(host, loader)
    assert await module.refresh() == "absent"
    install_module(host)
    assert await module.refresh() == "available"
    show_in_sysfs(host, ARCHIVE)
    assert module.state() == "loaded"
    hide_from_sysfs(host)
    assert module.state() == "available"
    installed_module(host).unlink()
    assert module.state() == "absent"
