"""Guests that were booted and frozen, so that each test goes on from there within a second."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

from tests.support import store
from tests.support.package import package
from tests.vm.guest import BOOT_LIMIT, Guest
from tests.vm.image import Image
from tests.vm.machine import HARDWARE, Machine

APT = "DEBIAN_FRONTEND=noninteractive apt-get -qq --no-install-recommends"
"""The beginning of a command that installs or removes packages in a guest."""

_INSTALL_LIMIT = 300.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """What `guest_from` starts from; never written to."""

    image: Image
    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def state(self) -> Path:
        return self.directory / "state"


def bare(image: Image) -> Snapshot:
    """The snapshot of a guest without the project, made now (a minute) if it was not made before."""
    key = store.key_of(image.key, _emulator(), HARDWARE, Path(__file__))
    kind = f"guest/bare-{image.suite}"
    return Snapshot(image, store.kept(kind, key, lambda directory: _make_bare(image, directory)))


def booted(image: Image) -> Snapshot:
    """The snapshot of a guest with the repository's present tree, made now if it was not made before."""
    below = bare(image)
    key = store.key_of(below.directory.name, package())
    kind = f"guest/booted-{image.suite}"
    return Snapshot(image, store.kept(kind, key, lambda directory: _make_booted(below, directory)))


def _emulator() -> bytes:
    return subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, check=True, timeout=60
    ).stdout


def install(guest: Guest) -> None:
    """Install the project as its documentation says; the packages that it needs are there."""
    file = package()
    guest.write(f"/root/{file.name}", file.read_bytes())
    guest.check(f"{APT} install /root/{file.name}", timeout=_INSTALL_LIMIT)


def _make_bare(image: Image, directory: Path) -> None:
    machine = Machine(image)
    try:
        guest = Guest(machine)
        guest.boot()
        _freeze(guest, directory)
    finally:
        machine.remove()


def _make_booted(below: Snapshot, directory: Path) -> None:
    guest = guest_from(below)
    try:
        install(guest)
        # Off and on instead of a reboot: the machine must be one that was just switched on.
        guest.power_off()
        guest.boot()
        ended = "systemctl show -P ExecMainExitTimestampMonotonic kheaders-boot.service"
        guest.wait_for(f'[ "$({ended})" != 0 ]', timeout=BOOT_LIMIT, every=2)
        _freeze(guest, directory)
    finally:
        guest.machine.remove()


def _freeze(guest: Guest, directory: Path) -> None:
    """Keep it as it is when what is done shortly after a boot is done, and the disk has it all."""
    guest.wait_for('[ -z "$(systemctl list-jobs --no-legend)" ]', timeout=BOOT_LIMIT, every=2)
    # A page that is not in memory need not be saved.
    guest.check("sync; echo 3 >/proc/sys/vm/drop_caches")
    guest.machine.save(directory / "state")
    guest.machine.disk.rename(directory / "disk.qcow2")


def guest_from(snapshot: Snapshot) -> Guest:
    """A guest that goes on from the snapshot. Its machine is to be removed in the end."""
    machine = Machine(snapshot.image, below=snapshot.disk)
    guest = Guest(machine)
    try:
        guest.resume(snapshot.state)
    except BaseException:
        machine.remove()
        raise
    return guest
