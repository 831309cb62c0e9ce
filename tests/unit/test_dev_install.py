"""``./dev install`` and ``./dev uninstall``: what is built when, and what apt is told.

The tools that build and install are scripts that only note their arguments: the real ones change the machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY

_TOOLS = {
    "id": "echo 0",
    "dpkg-query": '[ ! -e "$CHECKOUT/uninstalled" ] && echo installed',
    "dpkg-checkbuilddeps": "",
    "apt-get": 'echo "apt-get $*" >>"$NOTES"',
    "dpkg-buildpackage": """\
echo "built with the checkout's $(cat module)" >>"$NOTES"
[ ! -e fails ] || exit 2
touch ../kheadersd_0.1_all.deb ../kheadersd_0.1_amd64.changes
[ ! -e slow ] || {
    touch --date="30 seconds" "$CHECKOUT/module"
    touch --date="1 minute" ../kheadersd_0.1_all.deb
}""",
}


class Dev:
    """``./dev`` in a made-up checkout."""

    def __init__(self, work: Path) -> None:
        self.checkout = work / "a checkout"
        self.package = self.checkout / "dist/kheadersd_0.1_all.deb"
        self._tools, self._notes = work / "bin", work / "notes"
        self._tools.mkdir()
        self.checkout.mkdir()
        shutil.copy(REPOSITORY / "dev", self.checkout)
        for name, script in _TOOLS.items():
            (self._tools / name).write_text(f"#!/bin/sh\n{script}\n")
            (self._tools / name).chmod(0o755)
        self.write("module", "first")

    def write(self, name: str, text: str, *, age: float = 60.0) -> None:
        """Write a file of the checkout, changed some seconds ago or, below zero, in the future."""
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        changed = time.time() - age
        os.utime(path, (changed, changed))

    def run(self, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        """The exit status, and what the tools noted."""
        self._notes.write_text("")
        done = subprocess.run(
            [self.checkout / "dev", *arguments],
            env={
                "PATH": f"{self._tools}:/usr/bin:/bin",
                "NOTES": str(self._notes),
                "CHECKOUT": str(self.checkout),
                **environment,
            },
            capture_output=True,
            check=False,
        )
        return done.returncode, self._notes.read_text().splitlines()

    def installed(self) -> list[str]:
        """What was built by ``./dev install``, which must have told apt to install it."""
        status, notes = self.run("install")
        assert status == 0
        *built, install = notes
        assert install.startswith("apt-get ")
        assert install.endswith(f" --reinstall --allow-downgrades install {self.package}")
        return built


@pytest.fixture
def dev(tmp_path: Path) -> Dev:
    dev = Dev(tmp_path)
    os.utime(dev.checkout / "dev", (0, 0))
    return dev


def test_the_package_is_built_when_the_checkout_is_newer(dev: Dev) -> None:
    assert dev.installed() == ["built with the checkout's first"]
    assert dev.installed() == []
    dev.write("module", "second", age=-60)
    assert dev.installed() == ["built with the checkout's second"]


def test_what_is_no_source_makes_the_checkout_no_newer(dev: Dev) -> None:
    dev.installed()
    for name in (".git/index", "dist/other", "build/x", "kheadersd/__pycache__/x.pyc", ".mypy_cache/x"):
        dev.write(name, "", age=-60)
    assert dev.installed() == []


def test_what_changes_during_a_build_is_built_the_next_time(dev: Dev) -> None:
    dev.write("slow", "")
    assert dev.run("package")[0] == 0
    assert dev.installed() == ["built with the checkout's first"]


def test_an_older_package_is_replaced(dev: Dev) -> None:
    dev.write("dist/kheadersd_0.0.9_all.deb", "", age=3600)
    assert dev.installed() == ["built with the checkout's first"]
    assert [path.name for path in (dev.checkout / "dist").glob("*.deb")] == [dev.package.name]


def test_a_failed_build_installs_nothing(dev: Dev) -> None:
    dev.write("fails", "")
    assert dev.run("install") == (1, ["built with the checkout's first"])


def test_below_a_destdir_nothing_is_installed(dev: Dev) -> None:
    assert dev.run("install", DESTDIR="/nowhere") == (2, [])


@pytest.mark.parametrize(("arguments", "action"), [((), "remove"), (("--purge",), "purge")])
def test_uninstall(dev: Dev, arguments: tuple[str, ...], action: str) -> None:
    assert dev.run("uninstall", *arguments) == (0, [f"apt-get -qq {action} kheadersd"])


def test_uninstall_where_nothing_is_installed(dev: Dev) -> None:
    dev.write("uninstalled", "")
    assert dev.run("uninstall", "--purge") == (0, [])


def test_uninstall_with_anything_else(dev: Dev) -> None:
    assert dev.run("uninstall", "--all") == (2, [])
