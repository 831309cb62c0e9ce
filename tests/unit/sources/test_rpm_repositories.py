"""What is taken of a host's .repo files: its keys, and of an image only what is safe."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheadersd.host.host import Host
from kheadersd.sources.rpm_repositories import (
    Repository,
    key_files,
    read_repositories,
    read_variables,
    write_copies,
)
from kheadersd.sources.source import NotFound


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for directory in ("etc/yum.repos.d", "etc/dnf/vars", "etc/pki/rpm-gpg"):
        (tmp_path / "root" / directory).mkdir(parents=True)
    (tmp_path / "root/etc/os-release").write_text("ID=rhel\nVERSION_ID=9.4\n")
    return Host(tmp_path / "root")


def written(host: Host, text: str) -> list[Repository]:
    host.path("etc/yum.repos.d/a.repo").write_text(text)
    return read_repositories(host)


def test_repositories(host: Host) -> None:
    found = written(host, "[a]\nbaseurl = http://a/\n  http://b/\n[off]\nenabled=0\n[--x y]\nname=z\n")
    assert [repository.name for repository in found] == ["a"]
    assert found[0].options["baseurl"].split() == ["http://a/", "http://b/"]


@pytest.mark.parametrize("text", ["no section", "[a\n", "\0", "[a]\n" + "x" * (2 << 20)])
def test_files_that_are_none(host: Host, text: str) -> None:
    assert written(host, text) == []


def test_variables(host: Host) -> None:
    host.path("etc/dnf/vars/awsregion").write_text("eu-1\nmore\n")
    host.path("etc/dnf/vars/not a name").write_text("x\n")
    variables = read_variables(host, "i686")
    assert variables == {
        "arch": ("i686",),
        "basearch": ("i386",),
        "releasever": ("9.4", "9"),
        "awsregion": ("eu-1",),
    }


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("file:///etc/pki/rpm-gpg/KEY-9", ["KEY-9"]),
        ("file:///etc/pki/rpm-gpg/KEY-$releasever", ["KEY-9"]),
        (
            "file:///etc/pki/rpm-gpg/KEY-${releasever}-$basearch /etc/pki/rpm-gpg/KEY-9",
            ["KEY-9-x86_64", "KEY-9"],
        ),
        ("file:///etc/pki/rpm-gpg/KEY-$unknown", []),
        ("https://a.example/KEY-9", []),
        ("file:///etc/pki/../pki/rpm-gpg/KEY-9", []),
        ("file:///etc/pki/rpm-gpg/OUT", []),
        ("file:///etc/pki/rpm-gpg", []),
        ("file:///" + "$releasever" * 30, []),
        ("", []),
    ],
)
def test_keys(host: Host, tmp_path: Path, address: str, names: list[str]) -> None:
    (tmp_path / "outside").touch()
    host.path("etc/pki/rpm-gpg/OUT").symlink_to(tmp_path / "outside")
    for name in ("KEY-9", "KEY-9-x86_64"):
        host.path("etc/pki/rpm-gpg", name).touch()
    found = key_files(host, Repository("a", {"gpgkey": address}), read_variables(host, "x86_64"))
    assert [path.name for path in found] == names


def test_copies_for_an_image(host: Host, tmp_path: Path) -> None:
    text = "[a]\nbaseurl=http://a/ https://b/\nproxy=_none_\nsslclientkey=/etc/shadow\npriority=1\n"
    write_copies(tmp_path / "copy", host, written(host, text))
    assert (tmp_path / "copy").read_text() == "[a]\nbaseurl=http://a/ https://b/\npriority=1\n"


@pytest.mark.parametrize(
    "address", ["file:///etc", "http://a/ file:///etc", "http://a/,/etc", "$scheme://a/"]
)
def test_an_image_s_repository_on_this_machine(host: Host, tmp_path: Path, address: str) -> None:
    for key in ("baseurl", "mirrorlist", "metalink"):
        with pytest.raises(NotFound, match="only http and https"):
            write_copies(tmp_path / "copy", host, written(host, f"[a]\n{key}={address}\n"))
