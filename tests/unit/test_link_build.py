"""The script that keeps /lib/modules/RELEASE/build: what it changes, and what a crash at any point leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY

SCRIPT = REPOSITORY / "units/link-build"
RELEASE = "6.17.1-300.fc43.x86_64"
OURS = "/run/kheaders/build"
THEIRS = f"/usr/src/kernels/{RELEASE}"


class Machine:
    """A root with the modules of a kernel, as Fedora's kernel-core leaves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records = root / "var/lib/kheaders-link"
        self.build = self.add(RELEASE)

    def add(self, release: str) -> Path:
        """Install a kernel; its link to headers that are not installed."""
        directory = self.root / "lib/modules" / release
        (directory / "kernel").mkdir(parents=True)
        (directory / "build").symlink_to(f"/usr/src/kernels/{release}")
        (directory / "source").symlink_to("build")
        return directory / "build"

    def run(self, verb: str, release: str = RELEASE) -> None:
        arguments = [verb] if verb == "restore" else [verb, release]
        environment = {**os.environ, "KHEADERS_ROOT": str(self.root)}
        subprocess.run([SCRIPT, *arguments], env=environment, check=True, timeout=30)

    def install_headers(self, release: str = RELEASE) -> Path:
        directory = self.root / "usr/src/kernels" / release
        (directory / "include").mkdir(parents=True)
        (directory / "include/header.h").touch()
        return directory

    def state(self) -> tuple[int, int]:
        """Changes with the link."""
        status = self.build.lstat()
        return status.st_ino, status.st_ctime_ns

    def left(self) -> set[str]:
        """What there is of the script's, by name."""
        places = [*(self.root / "lib/modules").rglob("*kheadersd*"), *self.records.glob("*")]
        return {str(path.relative_to(self.root)) for path in places}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_link_that_leads_nowhere_is_replaced_and_put_back(machine: Machine) -> None:
    machine.run("make")
    assert os.readlink(machine.build) == OURS
    assert os.readlink(machine.records / RELEASE) == THEIRS
    machine.run("make")
    machine.run("restore")
    assert os.readlink(machine.build) == THEIRS
    assert machine.left() == set()


def test_it_gives_way_to_headers_and_takes_over_again(machine: Machine) -> None:
    machine.run("make")
    headers = machine.install_headers()
    machine.run("update")
    assert os.readlink(machine.build) == THEIRS
    assert machine.left() == set()
    # As "dnf remove kernel-devel" does it, but for directories.
    (headers / "include/header.h").unlink()
    machine.run("update")
    assert os.readlink(machine.build) == OURS
    machine.run("restore")
    assert os.readlink(machine.build) == THEIRS


def test_headers_that_are_there_are_left_alone(machine: Machine) -> None:
    machine.install_headers()
    before = machine.state()
    for verb in ("make", "update", "restore"):
        machine.run(verb)
    assert machine.state() == before
    assert machine.left() == set()


@pytest.mark.parametrize(
    "target", ["/nonexistent", "/usr/src/kernels/other", "../../../usr/src/kernels", "source"]
)
def test_no_other_link_is_touched(machine: Machine, target: str) -> None:
    machine.build.unlink()
    machine.build.symlink_to(target)
    before = machine.state()
    for verb in ("make", "update", "restore"):
        machine.run(verb)
    assert machine.state() == before


def test_nothing_is_changed_while_the_service_is_stopped(machine: Machine) -> None:
    machine.run("update")
    assert os.readlink(machine.build) == THEIRS
    machine.run("make")
    machine.run("restore")
    machine.run("update")
    assert os.readlink(machine.build) == THEIRS
    assert machine.left() == set()


def _recorded(machine: Machine) -> None:
    machine.records.mkdir(parents=True)
    (machine.records / RELEASE).symlink_to(THEIRS)


def _replaced(machine: Machine) -> None:
    _recorded(machine)
    machine.build.unlink()
    machine.build.symlink_to(OURS)


def _half_recorded(machine: Machine) -> None:
    machine.records.mkdir(parents=True)
    (machine.records / f"{RELEASE}.kheadersd").symlink_to(THEIRS)


def _half_replaced(machine: Machine) -> None:
    _recorded(machine)
    machine.build.with_name("build.kheadersd").symlink_to(OURS)


def _half_restored(machine: Machine) -> None:
    _replaced(machine)
    machine.build.with_name("build.kheadersd").symlink_to(THEIRS)


CRASHES = [_recorded, _replaced, _half_recorded, _half_replaced, _half_restored]


@pytest.mark.parametrize("crash", CRASHES)
@pytest.mark.parametrize("then", ["the same kernel", "another kernel", "headers", "uninstalled"])
def test_after_a_crash(machine: Machine, crash: Callable[[Machine], None], then: str) -> None:
    crash(machine)
    if then == "headers":
        machine.install_headers()
    if then == "another kernel":
        other = machine.add("6.17.2")
        machine.run("make", "6.17.2")
        assert os.readlink(other) == OURS
    elif then != "uninstalled":
        machine.run("make")
    if then != "uninstalled":
        assert os.readlink(machine.build) == (OURS if then == "the same kernel" else THEIRS)
    machine.run("restore")
    assert os.readlink(machine.build) == THEIRS
    assert machine.left() == set()


def test_the_kernel_is_removed(machine: Machine) -> None:
    """By rpm, which removes the link as one of its own."""
    machine.run("make")
    directory = machine.build.parent
    shutil.rmtree(directory)
    machine.run("update")
    assert machine.left() == set()
    assert not directory.exists()


def test_the_kernel_is_removed_and_only_the_link_stays(machine: Machine) -> None:
    """By dpkg, which knows of no link."""
    directory = machine.build.parent
    machine.build.unlink()
    machine.run("make")
    assert os.readlink(machine.build) == OURS
    shutil.rmtree(directory / "kernel")
    machine.run("update")
    assert os.readlink(machine.build) == OURS
    (directory / "source").unlink()
    machine.run("update")
    assert not directory.exists()
    assert machine.left() == set()


def test_kernels_that_do_not_run(machine: Machine) -> None:
    """A link that was left there leads to another kernel's headers."""
    machine.run("make")
    other = machine.add("-5.14 $(x)*")
    machine.run("make", "-5.14 $(x)*")
    assert os.readlink(machine.build) == THEIRS
    assert os.readlink(other) == OURS
    machine.run("restore")
    assert os.readlink(other) == "/usr/src/kernels/-5.14 $(x)*"
    assert machine.left() == set()


def test_a_directory_of_modules_that_is_a_link(machine: Machine) -> None:
    directory = machine.build.parent
    directory.rename(machine.root / "elsewhere")
    directory.symlink_to(machine.root / "elsewhere")
    machine.run("make")
    assert os.readlink(machine.build) == OURS
    machine.run("restore")
    assert os.readlink(machine.build) == THEIRS


def test_a_kernel_package_that_is_installed_again(machine: Machine) -> None:
    machine.run("make")
    machine.build.unlink()
    machine.build.symlink_to(THEIRS)
    machine.run("update")
    assert os.readlink(machine.build) == OURS
    assert os.readlink(machine.records / RELEASE) == THEIRS


def test_no_link_where_pacman_would_refuse_the_headers_package(machine: Machine) -> None:
    machine.build.unlink()
    (machine.build.parent / "pkgbase").write_text("linux\n")
    machine.run("make")
    assert not machine.build.is_symlink()


def test_usage(tmp_path: Path) -> None:
    (tmp_path / "lib/modules").mkdir(parents=True)
    done = subprocess.run(
        [SCRIPT], env={**os.environ, "KHEADERS_ROOT": str(tmp_path)}, capture_output=True, check=False
    )
    assert done.returncode == 2
