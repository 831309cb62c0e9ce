"""The link of units/link-build and rpm itself, with packages like kernel-core and kernel-devel."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.needs import needs_root
from tests.support.rpm_repository import build_rpm
from tests.support.running import REPOSITORY

RELEASE = "6.17.1-300.fc43.x86_64"
VERSION = "6.17.1-300.fc43"
OURS = "/run/kheaders/build"
THEIRS = f"/usr/src/kernels/{RELEASE}"


class Machine:
    """A root with a database of rpm, and a kernel."""

    def __init__(self, root: Path, packages: Path) -> None:
        self.root = root
        self.build = root / "lib/modules" / RELEASE / "build"
        made = packages / "core"
        modules = made / "lib/modules" / RELEASE
        (modules / "kernel").mkdir(parents=True)
        (modules / "kernel/some.ko").write_text("module")
        (modules / "build").symlink_to(THEIRS)
        (modules / "source").symlink_to("build")
        tree = (made, f"lib/modules/{RELEASE}")
        self.core = build_rpm(packages, "kernel-core", VERSION, {}, tree=tree)
        headers = {f"usr/src/kernels/{RELEASE}/include/linux/kconfig.h": "#define KCONFIG\n"}
        self.devel = build_rpm(packages, "kernel-devel", VERSION, headers)

    def rpm(self, *arguments: str, check: bool = True) -> str:
        command = ["rpm", f"--root={self.root}", "--noscripts", "--nodeps", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        assert "failed" not in done.stderr, done.stderr
        return done.stdout

    def link_build(self, *arguments: str) -> None:
        environment = {**os.environ, "KHEADERS_ROOT": str(self.root)}
        subprocess.run([REPOSITORY / "units/link-build", *arguments], env=environment, check=True, timeout=30)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "root").mkdir()
    (tmp_path / "packages").mkdir()
    machine = Machine(tmp_path / "root", tmp_path / "packages")
    machine.rpm("-i", "--nosignature", "--ignorearch", str(machine.core))
    machine.link_build("make", RELEASE)
    assert os.readlink(machine.build) == OURS
    return machine


@needs_root("rpm changes its root")
def test_kernel_devel_comes_and_goes(machine: Machine) -> None:
    # The one difference is where the link leads.
    verified = machine.rpm("--verify", "kernel-core", check=False)
    assert [line.split()[0].strip(".") for line in verified.splitlines()] == ["L"], verified
    machine.rpm("-i", "--nosignature", "--ignorearch", str(machine.devel))
    machine.link_build("update", RELEASE)
    assert os.readlink(machine.build) == THEIRS
    assert machine.rpm("--verify", "kernel-core", "kernel-devel") == ""
    assert (machine.root / THEIRS.lstrip("/") / "include/linux/kconfig.h").exists()
    machine.rpm("-e", "kernel-devel")
    machine.link_build("update", RELEASE)
    assert os.readlink(machine.build) == OURS
    machine.link_build("restore")
    assert machine.rpm("--verify", "kernel-core") == ""


@needs_root("rpm changes its root")
def test_the_kernel_is_removed(machine: Machine) -> None:
    machine.rpm("-e", "kernel-core")
    machine.link_build("update", RELEASE)
    assert not machine.build.parent.exists()
    assert list((machine.root / "var/lib/kheaders-link").iterdir()) == []
