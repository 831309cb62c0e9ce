"""A boot with the project: headers are there, the module is not, and nothing is worse than without."""

from __future__ import annotations

import dataclasses

from kheadersd.events import Event
from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.image import Image
from tests.vm.machine import Machine
from tests.vm.service import CACHE, call, entries, module_is_loaded, property_of
from tests.vm.snapshot import Snapshot
from tests.vm.suites import everywhere

_BOOT_RATIO = 1.02


@everywhere
def test_headers_of_the_running_kernel_are_extracted_at_boot(guest: Guest) -> None:
    release = guest.check("uname -r")
    ((path, details),) = [call(guest, "Lookup", "s", "")]
    assert path.startswith(f"{CACHE}/{release}-")
    assert details["release"] == release
    assert details["source"] == "module-file"
    assert not details["fresh"]
    assert release in guest.check(f"cat {path}/include/generated/utsrelease.h")
    assert property_of(guest, "EntryCount") == 1


def test_the_module_is_not_loaded_and_was_not(guest: Guest) -> None:
    assert not module_is_loaded(guest)
    assert property_of(guest, "ModuleState") == "available"
    assert entries(guest, Event.MODULE_LOADED.message_id) == []


def test_the_boot_extraction_is_in_the_journal(guest: Guest) -> None:
    (added,) = entries(guest, Event.ENTRY_ADDED.message_id)
    assert added["KHEADERS_SOURCE"] == "module-file"
    assert added["_SYSTEMD_UNIT"] == "kheadersd.service"


def test_the_daemon_has_no_privilege(guest: Guest) -> None:
    pid = guest.check("systemctl show -P MainPID kheadersd.service")
    lines = guest.check(f"cat /proc/{pid}/status").splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    uid = guest.check("id -u kheadersd")
    assert set(status["Uid"].split()) == {uid}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_the_system_and_its_boot_are_no_worse_than_without(
    image: Image, booted: Snapshot, figures: Figures
) -> None:
    # Once each: the guest's clock counts instructions, so that a second boot says nothing new.
    without, with_it = _boot(Machine(image)), _boot(Machine(image, below=booted.disk))
    assert (without.state, with_it.state) == ("running", "running")
    figures.add("boot without kheadersd", without.seconds, "s")
    figures.add("boot with kheadersd", with_it.seconds, "s")
    figures.add("boot with, against without", with_it.seconds / without.seconds, "", aim=_BOOT_RATIO)


@dataclasses.dataclass(frozen=True, slots=True)
class _Boot:
    """What became of a boot: seconds of userspace, by the guest's clock, and the state of the system."""

    seconds: float
    state: str


def _boot(machine: Machine) -> _Boot:
    try:
        guest = Guest(machine)
        guest.boot()
        state = guest.run("systemctl is-system-running").output.strip()
        return _Boot(_userspace_time(guest), state)
    finally:
        machine.remove()


def _userspace_time(guest: Guest) -> float:
    """Seconds from the start of systemd until all that it was to start had been started."""
    shown = guest.check(
        "systemctl show -P UserspaceTimestampMonotonic; systemctl show -P FinishTimestampMonotonic"
    )
    start, finish = (int(line) for line in shown.split())
    return (finish - start) / 1e6
