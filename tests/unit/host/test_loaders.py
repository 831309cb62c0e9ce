"""modprobe and the service manager, as far as they can be had without a kernel that loads modules.

The modprobe here is a shell script: a real child process that does to a made-up /sys what the kernel does.
"""

# ruff: noqa: ASYNC240 - nothing else waits for the loop of a test

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from kheadersd.dbus.codec import Variant
from kheadersd.dbus.errors import BusError, ConnectionLost
from kheadersd.dbus.objects import Answer
from kheadersd.errors import KheadersError, ModuleFailed, Timeout
from kheadersd.host.kernel_module import KernelModule
from kheadersd.host.modprobe_loader import ModprobeLoader
from kheadersd.host.systemd_loader import MANAGER, UNIT, UNLOAD_UNIT, UnitLoader
from tests.support.archives import make_kheaders
from tests.support.hosts import RELEASE, hide_from_sysfs, make_host, show_in_sysfs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kheadersd.host.host import Host

ARCHIVE = make_kheaders(RELEASE)

WORKING = """
case "$1" in
--first-time)
    if [ -d sys/module/kheaders ]; then
        echo "modprobe: ERROR: could not insert 'kheaders': Module already in kernel" >&2; exit 1
    fi
    mkdir sys/module/kheaders; echo archive > sys/kernel/kheaders.tar.xz ;;
-r) [ ! -d sys/module/kheaders ] || { rmdir sys/module/kheaders; rm sys/kernel/kheaders.tar.xz; } ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "loaded-by-us"


def modprobe(host: Host, record: Path, script: str, time_limit: float = 30.0) -> ModprobeLoader:
    program = record.parent / "modprobe"
    program.write_text(f"#!/bin/sh\ncd '{host.root}'\n{script}")
    program.chmod(0o755)
    return ModprobeLoader(host, record, modprobe=str(program), time_limit=time_limit)


async def test_loaded_by_us(host: Host, record: Path) -> None:
    loader = modprobe(host, record, WORKING)
    await loader.load()
    assert (loader.is_owned, record.exists()) == (True, True)
    await loader.unload()
    assert (loader.is_owned, record.exists()) == (False, False)
    assert KernelModule(host, loader).state() == "absent"


async def test_loaded_by_somebody_in_between(host: Host, record: Path) -> None:
    show_in_sysfs(host, ARCHIVE)
    loader = modprobe(host, record, WORKING)
    await loader.load()
    assert not loader.is_owned
    assert not record.exists()


async def test_unloading_what_is_not_loaded(host: Host, record: Path) -> None:
    await modprobe(host, record, "exit 1").unload()


async def test_the_record_outlives_us(host: Host, record: Path) -> None:
    await modprobe(host, record, WORKING).load()
    successor = modprobe(host, record, WORKING)
    assert not successor.is_owned
    module = KernelModule(host, successor)
    await module.recover()
    assert module.state() == "absent"
    assert not record.exists()


@pytest.mark.parametrize("content", [b"another boot\n", b"", b"\xff"])
async def test_a_record_that_does_not_count(host: Host, record: Path, content: bytes) -> None:
    show_in_sysfs(host, ARCHIVE)
    record.write_bytes(content)
    module = KernelModule(host, modprobe(host, record, WORKING))
    await module.recover()
    assert module.state() == "loaded"
    assert not record.exists()


async def test_a_record_of_what_is_gone(host: Host, record: Path) -> None:
    loader = modprobe(host, record, WORKING)
    await loader.load()
    hide_from_sysfs(host)
    successor = modprobe(host, record, WORKING)
    await successor.restore_ownership()
    assert not successor.is_owned
    assert not record.exists()


@pytest.mark.parametrize(
    ("said", "explained"),
    [
        ("Operation not permitted", "CAP_SYS_MODULE"),
        ("Key was rejected by service", "signed by a key it trusts"),
        ("Required key not available", "signed by a key it trusts"),
        ("Unknown symbol in module, or unknown parameter (see dmesg)", "depmod -a"),
        ("Exec format error", "another kernel"),
        ("Module kheaders not found in directory /lib/modules/6", "no kheaders module installed"),
        ("something new", "something new"),
        ("", "exit code 1"),
    ],
)
async def test_refusals_say_what_to_do(host: Host, record: Path, said: str, explained: str) -> None:
    loader = modprobe(host, record, f"echo '{said}' >&2; exit 1")
    with pytest.raises(ModuleFailed, match=explained) as caught:
        await loader.load()
    assert said in caught.value.message
    assert not loader.is_owned
    assert not record.exists()


async def test_modules_disabled(host: Host, record: Path) -> None:
    host.path("proc/sys/kernel/modules_disabled").write_text("1\n")
    with pytest.raises(ModuleFailed, match="until the next boot"):
        await modprobe(host, record, "echo Operation not permitted >&2; exit 1").load()


async def test_lockdown(host: Host, record: Path) -> None:
    host.path("sys/kernel/security").mkdir()
    host.path("sys/kernel/security/lockdown").write_text("none [integrity] confidentiality\n")
    with pytest.raises(ModuleFailed, match="locked down"):
        await modprobe(host, record, "echo Operation not permitted >&2; exit 1").load()


async def test_success_without_effect(host: Host, record: Path) -> None:
    with pytest.raises(ModuleFailed, match=r"/etc/modprobe\.d"):
        await modprobe(host, record, "exit 0").load()


async def test_an_unload_that_is_refused(host: Host, record: Path) -> None:
    script = WORKING.replace("-r)", "-r) echo 'Module kheaders is in use.' >&2; exit 1 ;;\n-x)")
    loader = modprobe(host, record, script)
    await loader.load()
    with pytest.raises(ModuleFailed, match="is in use"):
        await loader.unload()
    assert loader.is_owned
    assert record.exists()


async def test_one_that_hangs_is_killed(host: Host, record: Path) -> None:
    loader = modprobe(host, record, f"echo $$ > {record}.pid; exec sleep 60", time_limit=0.3)
    with pytest.raises(Timeout, match=r"took longer than 0\.3 s"):
        await loader.load()
    with pytest.raises(ProcessLookupError):
        os.kill(int(record.with_name(record.name + ".pid").read_text()), 0)


async def test_killed_after_it_had_loaded(host: Host, record: Path) -> None:
    loader = modprobe(host, record, WORKING + "exec sleep 60", time_limit=0.3)
    with pytest.raises(Timeout):
        await loader.load()
    assert loader.is_owned


async def test_no_modprobe(host: Host, record: Path) -> None:
    with pytest.raises(ModuleFailed, match="No such file"):
        await ModprobeLoader(host, record, modprobe="/nonexistent/modprobe").load()


async def test_a_record_that_cannot_be_removed(
    host: Host, record: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a file system that has become read-only."""
    record.mkdir()
    loader = modprobe(host, record, WORKING)
    await loader.restore_ownership()
    await loader.unload()
    assert "cannot be removed: Is a directory" in caplog.text


async def test_no_place_for_the_record(host: Host, tmp_path: Path) -> None:
    with pytest.raises(ModuleFailed, match="cannot be written"):
        await ModprobeLoader(host, tmp_path / "missing/record", modprobe="/bin/false").load()


class Manager:
    """The service manager, as far as it is asked: two units, whose jobs take two looks to be done.

    Attributes:
        result: the state that a start ends in.
        refuses: the error message of StartUnit and StopUnit, if any.
        works: whether the kernel lets the module go.
        asked: what was asked for.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self.state = "inactive"
        self.result = "active"
        self.refuses = ""
        self.hangs = False
        self.works = True
        self.unloads = False
        self.asked: list[str] = []
        self.next = "inactive"
        self.looks_until_done = 0

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        values: Sequence[object],
    ) -> Answer:
        return Answer([await self.answer(destination, path, interface, member, signature, values)], ())

    async def answer(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        values: Sequence[object],
    ) -> object:
        await asyncio.sleep(0)
        assert destination == "org.freedesktop.systemd1"
        if member == "LoadUnit":
            assert signature == "s"
            assert values[0] in (UNIT, UNLOAD_UNIT)
            return "/org/freedesktop/systemd1/unit/kheaders"
        if member == "Get":
            assert path == "/org/freedesktop/systemd1/unit/kheaders"
            return self.get(str(values[1]))
        assert interface == "org.freedesktop.systemd1.Manager"
        assert signature == "ss"
        assert values[1] == "replace"
        self.asked.append(f"{member} {values[0]}")
        if self.refuses:
            raise KheadersError(self.refuses)
        self.looks_until_done = 2
        self.next = self.result if (member, values[0]) == ("StartUnit", UNIT) else "inactive"
        self.unloads = self.next == "inactive" and self.works
        return "/org/freedesktop/systemd1/job/1"

    def get(self, name: str) -> Variant:
        if name == "ActiveState":
            return Variant("s", self.state)
        assert name == "Job"
        if self.looks_until_done:
            if not self.hangs:
                self.looks_until_done -= 1
            return Variant("(uo)", [1, "/org/freedesktop/systemd1/job/1"])
        if self.next == "active":
            show_in_sysfs(self.host, ARCHIVE)
        elif self.unloads:
            hide_from_sysfs(self.host)
        self.state = self.next
        return Variant("(uo)", [0, "/"])


@pytest.fixture
def manager(host: Host) -> Manager:
    return Manager(host)


async def test_the_unit_is_started_and_stopped(host: Host, manager: Manager) -> None:
    loader = UnitLoader(host, manager)
    await loader.load()
    assert (loader.is_owned, KernelModule(host, loader).state()) == (True, "loaded")
    await loader.unload()
    assert (loader.is_owned, KernelModule(host, loader).state()) == (False, "absent")


async def test_the_unit_fails(host: Host, manager: Manager) -> None:
    manager.result = "failed"
    with pytest.raises(ModuleFailed, match=f"{UNIT} is failed; see 'journalctl"):
        await UnitLoader(host, manager).load()


async def test_the_unit_fails_because_somebody_was_faster(host: Host, manager: Manager) -> None:
    manager.result = "failed"
    show_in_sysfs(host, ARCHIVE)
    loader = UnitLoader(host, manager)
    await loader.load()
    assert not loader.is_owned


async def test_the_service_manager_refuses(host: Host, manager: Manager) -> None:
    manager.refuses = "Access denied"
    loader = UnitLoader(host, manager)
    with pytest.raises(ModuleFailed, match="Access denied"):
        await loader.load()
    show_in_sysfs(host, ARCHIVE)
    with pytest.raises(ModuleFailed, match="Access denied"):
        await loader.unload()


async def test_somebody_elses_module_is_unloaded_by_another_unit(host: Host, manager: Manager) -> None:
    show_in_sysfs(host, ARCHIVE)
    await UnitLoader(host, manager).unload()
    assert manager.asked == [f"StartUnit {UNLOAD_UNIT}"]
    assert not host.path("sys/module/kheaders").exists()


async def test_our_own_module_is_unloaded_by_its_unit(host: Host, manager: Manager) -> None:
    loader = UnitLoader(host, manager)
    await loader.load()
    await loader.unload()
    assert manager.asked == [f"StartUnit {UNIT}", f"StopUnit {UNIT}"]


@pytest.mark.parametrize("owned", [True, False])
async def test_the_kernel_keeps_the_module(host: Host, manager: Manager, owned: bool) -> None:
    show_in_sysfs(host, ARCHIVE)
    loader = UnitLoader(host, manager)
    if owned:
        hide_from_sysfs(host)
        await loader.load()
    manager.works = False
    with pytest.raises(ModuleFailed, match=r"could not be unloaded: kheaders-module.* is inactive; see"):
        await loader.unload()
    assert not loader.is_owned


async def test_the_unit_hangs(host: Host, manager: Manager) -> None:
    manager.hangs = True
    loader = UnitLoader(host, manager, time_limit=0.2)
    with pytest.raises(Timeout, match="not started"):
        await loader.load()
    assert loader.is_owned  # it may still get there


async def test_the_service_manager_forgets_the_unit_while_it_starts(host: Host) -> None:
    class Lost(Manager):
        def get(self, name: str) -> Variant:
            raise BusError("org.freedesktop.systemd1.NoSuchUnit", f"there is no unit to ask for {name}")

    loader = UnitLoader(host, Lost(host))
    with pytest.raises(ModuleFailed, match="is not known: there is no unit"):
        await loader.load()
    assert loader.is_owned


async def test_the_bus_is_lost_before_it_is_said_that_the_unit_starts(host: Host) -> None:
    class Lost(Manager):
        async def answer(self, *question: object) -> object:
            await super().answer(*question)  # type: ignore[arg-type]
            raise ConnectionLost("the connection to the bus is gone")

    loader = UnitLoader(host, Lost(host))
    with pytest.raises(ModuleFailed, match="the connection to the bus is gone"):
        await loader.load()
    assert loader.is_owned


async def test_an_active_unit_is_what_a_predecessor_left(host: Host, manager: Manager) -> None:
    await UnitLoader(host, manager).load()
    module = KernelModule(host, UnitLoader(host, manager))
    await module.recover()
    assert module.state() == "absent"
    assert manager.state == "inactive"


async def test_no_service_manager(host: Host) -> None:
    class NoManager:
        async def call(self, *_: object) -> Answer:
            raise KheadersError("The name org.freedesktop.systemd1 was not provided by any .service files")

    loader = UnitLoader(host, NoManager())
    await loader.restore_ownership()
    assert not loader.is_owned
    with pytest.raises(ModuleFailed, match="was not provided"):
        await loader.load()


async def test_a_predecessor_was_killed_while_the_unit_started(host: Host, manager: Manager) -> None:
    await manager.call(*MANAGER, "StartUnit", "ss", (UNIT, "replace"))
    module = KernelModule(host, UnitLoader(host, manager))
    await module.recover()
    assert manager.asked == [f"StartUnit {UNIT}", f"StopUnit {UNIT}"]
    assert module.state() == "absent"
