"""A guest with the project installed and booted, kept so that every test gets it as new within a second."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

from support import store

from .guest import BOOT_LIMIT, Guest
from .image import Image
from .machine import HARDWARE, Machine

CHECKOUT = "/root/kheadersd"
"""Where the guest has the repository."""

REPOSITORY = Path(__file__).resolve().parent.parent.parent

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

    @property
    def figures(self) -> dict[str, float]:
        """What was measured when it was made, in seconds."""
        loaded: dict[str, float] = json.loads((self.directory / "figures.json").read_text())
        return loaded


def booted(image: Image) -> Snapshot:
    """The snapshot of this image and the repository's present tree, made now if it was not made before."""
    project = project_files()
    names = "\n".join(str(file.relative_to(REPOSITORY)) for file in project)
    emulator = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, check=True, timeout=60
    ).stdout
    key = store.key_of(image.key, names, emulator, HARDWARE, Path(__file__), *project)
    kind = f"guest/booted-{image.suite}"
    return Snapshot(image, store.kept(kind, key, lambda directory: _make(image, directory)))


def project_files() -> list[Path]:
    """The files of the repository that take part in an installation."""
    return store.files_below(REPOSITORY, leave_out=("tests",))


def install(guest: Guest) -> None:
    """Install the project as its documentation says; the packages that it needs are there."""
    guest.put_tree(project_files(), REPOSITORY, CHECKOUT)
    guest.check(f"cd {CHECKOUT} && ./dev install", timeout=_INSTALL_LIMIT)


def _make(image: Image, directory: Path) -> None:
    machine = Machine(image)
    try:
        guest = Guest(machine)
        guest.boot()
        install(guest)
        # Off and on instead of a reboot: the machine must be one that was just switched on.
        guest.power_off()
        guest.boot()
        _settle(guest)
        figures = {"start of userspace": userspace_time(guest)}
        (directory / "figures.json").write_text(json.dumps(figures))
        machine.save(directory / "state")
        machine.disk.rename(directory / "disk.qcow2")
    finally:
        machine.remove()


def _settle(guest: Guest) -> None:
    """Wait until what is done shortly after a boot is done, and the disk has it all."""
    ended = "systemctl show -P ExecMainExitTimestampMonotonic kheaders-boot.service"
    guest.wait_for(
        f'[ "$({ended})" != 0 ] && [ -z "$(systemctl list-jobs --no-legend)" ]', timeout=BOOT_LIMIT, every=2
    )
    # A page that is not in memory need not be saved.
    guest.check("sync; echo 3 >/proc/sys/vm/drop_caches")


def userspace_time(guest: Guest) -> float:
    """Seconds from the start of systemd until all that it was to start had been started."""
    shown = guest.check(
        "systemctl show -P UserspaceTimestampMonotonic; systemctl show -P FinishTimestampMonotonic"
    )
    start, finish = (int(line) for line in shown.split())
    return (finish - start) / 1e6


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
