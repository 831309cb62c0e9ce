"""Which package manager serves a host, and why none does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kheadersd.host.host import Host
from kheadersd.sources.package import choose_manager
from kheadersd.sources.source import NotFound, Reason
from tests.support.packages import put_before

PLACES = {
    "apt": "etc/apt",
    "rpm": "etc/yum.repos.d",
    "zypper": "etc/zypp/repos.d",
    "pacman": "etc/pacman.conf",
}
TOOLS = ("apt-get", "dnf5", "rpm", "rpmkeys", "rpm2archive", "zypper", "pacman", "fakeroot")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host for every package manager, on a machine that has all of them."""
    for tool in TOOLS:
        put_before(monkeypatch, tmp_path, tool, "exit 9")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr("kheadersd.sources.suse.is_network_confined", lambda: True)
    for place in PLACES.values():
        (tmp_path / "root" / place).mkdir(parents=True)
    return tmp_path / "root"


def chosen(root: Path, os_release: str) -> str:
    (root / "etc/os-release").write_text(os_release)
    return type(choose_manager(Host(root), root / "work", tuple)).__name__


@pytest.mark.parametrize(
    ("os_release", "name"),
    [
        ("ID=debian", "Apt"),
        ("ID=linuxmint\nID_LIKE=ubuntu", "Apt"),
        ("ID=fedora", "Rpm"),
        ('ID="almalinux"\nID_LIKE="rhel centos fedora"', "Rpm"),
        ("ID=amzn\nID_LIKE=fedora", "Rpm"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', "Suse"),
        ("ID=sles\nID_LIKE=suse", "Suse"),
        ("ID=arch", "Pacman"),
        ("ID=cachyos\nID_LIKE=arch", "Pacman"),
        ("ID=unheard-of", "Apt"),
        ("", "Apt"),
    ],
)
def test_the_distribution_decides(root: Path, os_release: str, name: str) -> None:
    assert chosen(root, os_release) == name


def test_what_is_there_decides_where_the_distribution_is_not_known(root: Path) -> None:
    (root / PLACES["apt"]).rmdir()
    assert chosen(root, "ID=unheard-of") == "Rpm"
    (root / PLACES["rpm"]).rmdir()
    assert chosen(root, "ID=unheard-of") == "Suse"
    (root / PLACES["zypper"]).rmdir()
    assert chosen(root, "ID=unheard-of") == "Pacman"


@pytest.mark.parametrize(
    ("os_release", "tool", "told"),
    [
        ("ID=debian", "apt-get", "apt: no apt-get"),
        ("ID=fedora", "dnf5", "rpm: no dnf5 and no dnf"),
        ("ID=fedora", "rpmkeys", "rpm: no rpmkeys"),
        ("ID=sles\nID_LIKE=suse", "zypper", "zypper: no zypper"),
        ("ID=arch", "fakeroot", "pacman: no fakeroot"),
    ],
)
def test_what_is_missing(root: Path, tmp_path: Path, os_release: str, tool: str, told: str) -> None:
    os.unlink(tmp_path / "bin" / tool)
    with pytest.raises(NotFound) as caught:
        chosen(root, os_release)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert told in caught.value.message


def test_zypper_needs_the_unit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheadersd.sources.suse.is_network_confined", lambda: False)
    with pytest.raises(NotFound, match=r"zypper: no kheaders-fetch\.socket") as caught:
        chosen(root, "ID=sles\nID_LIKE=suse")
    assert caught.value.reason is Reason.UNSUPPORTED


def test_nothing_is_known(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"apt: no .*; rpm: no .*; zypper: no .*; pacman: no ") as caught:
        choose_manager(Host(tmp_path), tmp_path / "work", tuple)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert not (tmp_path / "work").exists()
