"""The whole daemon, and a host on which kernels and its module come and go."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from kheadersd.errors import KheadersError
from kheadersd.events import Event
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import KernelModule
from tests.support.archives import make_kheaders
from tests.support.clients import wait_until
from tests.support.hosts import OTHER, Loader, hide_from_sysfs, install, make_host, make_module, show_in_sysfs
from tests.support.running import Bus, Daemon, MakeDaemon
from tests.support.served_host import RELEASE, ServedHost


@pytest.fixture
def daemon(tmp_path: Path, bus: Bus, make_daemon: MakeDaemon) -> Daemon:
    return make_daemon(bus, root=ServedHost(tmp_path / "root").root)


@pytest.mark.slow
def test_a_kernel_comes_and_goes(bus: Bus, daemon: Daemon) -> None:
    host = Host(daemon.root)
    install(host, RELEASE, make_module(make_kheaders(RELEASE)))
    wait_until(lambda: len(daemon.entries()) == 1)
    assert bus.get("ModuleState") == "available"
    install(host, OTHER, make_module(make_kheaders(OTHER), f"{OTHER} SMP"))
    wait_until(lambda: bus.get("EntryCount") == 2)
    path, _ = bus.call("Lookup", "s", OTHER)
    assert Path(path, "include/linux/kconfig.h").exists()
    for release in (OTHER, RELEASE):
        shutil.rmtree(host.path("lib/modules", release))
    install(host, "6.2.0-10-test", b"not a module")
    wait_until(lambda: len(daemon.entries()) == 1)
    assert daemon.entries()[0].startswith(RELEASE), "it runs, though its modules were deleted"
    wait_until(lambda: "could not be extracted ahead" in daemon.log.read_text())
    log = daemon.log.read_text()
    assert f"Removed the headers of {OTHER}" in log
    assert "kheaders was absent, and is available now" in log


def test_stopped_at_once(bus: Bus, daemon: Daemon) -> None:
    install(Host(daemon.root), RELEASE, make_module(make_kheaders(RELEASE)))
    assert daemon.stop() == 0
    assert daemon.entries() == []


class Told:
    def __init__(self) -> None:
        self.events: list[tuple[Event, str]] = []

    def __call__(self, event: Event, message: str, error: KheadersError | None) -> None:
        assert (error is not None) == (event is Event.MODULE_UNLOAD_FAILED)
        self.events.append((event, message))


async def test_what_others_do_with_the_module(tmp_path: Path) -> None:
    host, told = make_host(tmp_path), Told()
    archive = make_kheaders(RELEASE)
    module = KernelModule(host, Loader(host, archive), told)
    await module.recover()
    await module.on_uevent()
    assert told.events == []
    install(host, RELEASE, make_module(archive))
    await module.on_uevent()
    show_in_sysfs(host, archive)
    await module.on_uevent()
    await module.on_uevent()
    hide_from_sysfs(host)
    await module.on_uevent()
    assert told.events == [
        (Event.MODULE_CHANGED, "kheaders was absent, and is available now"),
        (Event.MODULE_CHANGED, "kheaders was loaded by another program; it is used, and not unloaded"),
        (Event.MODULE_CHANGED, "kheaders was unloaded by another program"),
    ]


async def test_what_we_do_is_not_told_as_somebody_elses(tmp_path: Path) -> None:
    host, told = make_host(tmp_path), Told()
    archive = make_kheaders(RELEASE)
    install(host, RELEASE, make_module(archive))
    loader = Loader(host, archive)
    module = KernelModule(host, loader, told)
    await module.recover()
    async with module.loaded():
        assert module.state() == "loaded"
    await module.on_uevent()
    loader.fails_to_unload = True
    async with module.loaded():
        pass
    await module.on_uevent()
    assert [event for event, _ in told.events] == [
        Event.MODULE_LOADED,
        Event.MODULE_UNLOADED,
        Event.MODULE_LOADED,
        Event.MODULE_UNLOAD_FAILED,
    ]
    loader.fails_to_unload = False
    await module.unload_if_idle()
    show_in_sysfs(host, archive)
    await module.unload_if_idle()
    await module.on_uevent()
    assert [event for event, _ in told.events[4:]] == [Event.MODULE_UNLOADED, Event.MODULE_UNLOADED]
