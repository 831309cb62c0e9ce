"""What can be said of the units and of the installation without running anything."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY

UNITS = REPOSITORY / "units"
INSTALL = UNITS / "install.sh"

# systemd 252's own systemd-hostnamed has 1.5. The two that load and unload need the capability for that.
EXPOSURE = {
    "kheadersd.service": 1.0,
    "kheaders-boot.service": 1.0,
    "kheaders-prune.service": 1.0,
    "kheaders-provide.service": 1.0,
    "kheaders-link.service": 1.0,
    "kheaders-fetch@.service": 1.2,
    "kheaders-compile@.service": 0.5,
    "kheaders-module.service": 1.3,
    "kheaders-module-unload.service": 1.3,
}


@pytest.mark.parametrize("unit", EXPOSURE)
def test_exposure(unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / unit)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found
    assert float(found[1]) <= EXPOSURE[unit], done.stdout


def listing(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def install(root: Path, *arguments: str) -> None:
    subprocess.run(
        [str(INSTALL), *arguments], env={**os.environ, "DESTDIR": str(root)}, check=True, capture_output=True
    )


def test_below_a_directory(tmp_path: Path) -> None:
    install(tmp_path, "install")
    there = listing(tmp_path)
    assert {
        "usr/bin/kheadersd",
        "usr/bin/kheadersctl",
        "usr/lib/kheadersd/kheadersd/daemon/main.py",
        "usr/lib/kheadersd/kheadersd/data/site/sitecustomize.py",
        "usr/lib/python3/dist-packages/kheadersd",
        "usr/lib/systemd/system/kheadersd.service",
        "usr/lib/systemd/catalog/kheadersd.catalog",
        "usr/share/dbus-1/system.d/org.kheaders.Provide.conf",
        "usr/share/dbus-1/system-services/org.kheaders.Provide.service",
        "usr/share/dbus-1/interfaces/org.kheaders.Provide.xml",
        "usr/share/polkit-1/actions/org.kheaders.provide.policy",
        "usr/share/polkit-1/rules.d/org.kheaders.provide.rules",
        "etc/systemd/system/multi-user.target.wants/kheaders.timer",
    } <= there
    assert not (tmp_path / "etc/passwd").exists()
    compiled = tmp_path / "usr/lib/kheadersd/kheadersd/__pycache__"
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in compiled.iterdir())
    install(tmp_path, "uninstall")
    assert listing(tmp_path) == set()


def test_what_was_there_stays(tmp_path: Path) -> None:
    theirs = tmp_path / "etc/systemd/system/timers.target.wants/their.timer"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    (tmp_path / "usr/lib/tmpfiles.d").mkdir(parents=True)
    entry = tmp_path / "var/cache/kheaders/entry"
    entry.mkdir(parents=True)
    before = listing(tmp_path)
    install(tmp_path, "install")
    install(tmp_path, "uninstall")
    assert listing(tmp_path) == before
    install(tmp_path, "uninstall", "--purge")
    assert "var/cache/kheaders" not in listing(tmp_path)


def test_an_upgrade(tmp_path: Path) -> None:
    install(tmp_path, "install")
    first = listing(tmp_path)
    # An older version had a file more, and the administrator has disabled a timer since.
    older = tmp_path / "usr/lib/kheadersd/kheadersd/older.py"
    older.touch()
    with (tmp_path / "usr/lib/kheadersd/installed").open("a") as manifest:
        manifest.write("/usr/lib/kheadersd/kheadersd/older.py\n")
    disabled = "etc/systemd/system/kheaders.target.wants/kheaders-prune.timer"
    (tmp_path / disabled).unlink()
    install(tmp_path, "install")
    assert listing(tmp_path) == first - {disabled}
    install(tmp_path, "uninstall")
    assert listing(tmp_path) == set()


def test_into_an_image(tmp_path: Path) -> None:
    """A whole system that does not run gets the user, too."""
    for name in ("passwd", "group", "shadow", "gshadow"):
        (tmp_path / "etc").mkdir(exist_ok=True)
        (tmp_path / "etc" / name).touch(mode=0o600)
    install(tmp_path, "install")
    assert (tmp_path / "etc/passwd").read_text().startswith("kheadersd:")
    install(tmp_path, "uninstall", "--purge")
    assert (tmp_path / "etc/passwd").read_text() == (tmp_path / "etc/group").read_text() == ""


def test_nothing_to_uninstall(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        install(tmp_path, "uninstall")
    install(tmp_path, "uninstall", "--purge")


@pytest.mark.parametrize("arguments", [(), ("remove",), ("uninstall", "--all")])
def test_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        install(tmp_path, *arguments)
    assert caught.value.returncode == 2
    assert listing(tmp_path) == set()
