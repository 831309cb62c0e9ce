"""A boot with the project: headers are there, the module is not, and nothing is worse than without."""

from __future__ import annotations

import dataclasses

from kheadersd.journal import Event

from .figures import Figures
from .guest import Guest
from .image import Image
from .machine import Machine
from .service import CACHE, call, entries, module_is_loaded, property_of
from .snapshot import Snapshot, userspace_time
from .suites import everywhere

_BOOTS = 3
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
    status = dict(line.split(":\t", 1) for line in guest.check(f"cat /proc/{pid}/status").splitlines())
    uid = guest.check("id -u kheadersd")
    assert set(status["Uid"].split()) == {uid}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_the_system_and_its_boot_are_no_worse_than_without(
    image: Image, booted: Snapshot, figures: Figures
) -> None:
    # One after the other, so that what else the machine has to do is in both.
    pairs = [(_boot(Machine(image)), _boot(Machine(image, below=booted.disk))) for _ in range(_BOOTS)]
    assert {boot.state for pair in pairs for boot in pair} == {"running"}
    base, seconds = (min(boot.seconds for boot in boots) for boots in zip(*pairs, strict=True))
    figures.add("boot without kheadersd", base, "s")
    figures.add("boot with kheadersd", seconds, "s")
    figures.add("boot with, against without", seconds / base, "", aim=_BOOT_RATIO)


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
        return _Boot(userspace_time(guest), state)
    finally:
        machine.remove()
