"""What a host's distribution is called, and what is said about its headers packages."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kheadersd.host.distribution import distribution, how_to_install
from kheadersd.release import Release
from tests.support.hosts import make_host

if TYPE_CHECKING:
    from pathlib import Path

    from kheadersd.host.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def put(host: Host, text: str, place: str = "etc/os-release") -> Path:
    path = host.path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# The first lines of the distributions' own files; the kernels' releases are of their packages.
SAID = [
    ('ID=debian\nVERSION_ID="12"', "6.1.0-56-amd64", "'apt install linux-headers-6.1.0-56-amd64'"),
    ("ID=ubuntu\nID_LIKE=debian", "6.8.0-40-generic", "'apt install linux-headers-6.8.0-40-generic'"),
    ('ID=linuxmint\nID_LIKE="ubuntu debian"', "6.8.0-40-generic", "'apt install linux-headers-6.8.0-40-g"),
    (
        "ID=fedora\nVERSION_ID=43",
        "6.17.1-300.fc43.x86_64",
        "'dnf install kernel-devel-6.17.1-300.fc43.x86_64'",
    ),
    (
        'ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"',
        "5.14.0-427.13.1.el9_4.x86_64+rt",
        "'dnf install 'kernel-devel-uname-r == 5.14.0-427.13.1.el9_4.x86_64+rt''",
    ),
    (
        'ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"',
        "3.10.0-1160.el7.x86_64",
        "'yum install kernel-de",
    ),
    (
        'ID="ol"\nID_LIKE="fedora"\nVERSION_ID="9.4"',
        "5.15.0-206.el9uek.x86_64",
        "'dnf install 'kernel-devel-uname-r == 5.15.0-206.el9uek.x86_64''",
    ),
    (
        'ID="amzn"\nID_LIKE="centos rhel fedora"\nVERSION_ID="2"',
        "5.10.1-2.amzn2.x86_64",
        "'yum install kernel-devel-5.10.1-2.amzn2.x86_64'",
    ),
    (
        'ID="amzn"\nID_LIKE="fedora"\nVERSION_ID="2023"',
        "6.12.1-2.amzn2023.x86_64",
        "'dnf install 'kernel-devel-uname-r == 6.12.1-2.amzn2023.x86_64''",
    ),
    ("ID=azurelinux", "6.6.57.1-1.azl3", "'tdnf install kernel-devel-6.6.57.1-1.azl3'"),
    ("ID=photon", "6.1.75-1.ph5-esx", "'tdnf install linux-esx-devel'"),
    ("ID=photon", "6.1.75-1.ph5", "'tdnf install linux-devel'"),
    (
        'ID="opensuse-leap"\nID_LIKE="suse opensuse"',
        "6.4.0-150600.23.47-default",
        "'zypper install kernel-default-devel=6.4.0-150600.23.47'",
    ),
    (
        'ID="opensuse-microos"\nID_LIKE="suse opensuse opensuse-tumbleweed"',
        "6.16.1-1-default",
        "'transactional-update pkg install kernel-default-devel=6.16.1-1'",
    ),
    (
        "ID=sles\nID_LIKE=suse",
        "5.14.21-150500.13.5-rt",
        "'zypper install kernel-rt-devel=5.14.21-150500.13.5'",
    ),
    ("ID=arch", "6.14.4-arch1-2", "'pacman -S linux-headers'"),
    ("ID=alpine", "6.6.58-0-lts", "'apk add linux-lts-dev'"),
    ("ID=nixos", "6.6.33", "boot.kernelPackages.kernel.dev, below lib/modules/6.6.33/build"),
    (
        "ID=flatcar\nID_LIKE=coreos",
        "6.6.60-flatcar",
        "no headers package: its kernels have the module kheaders",
    ),
    ("ID=bottlerocket", "6.1.1", "no headers package: its kernels carry the headers"),
    ("ID=gentoo", "6.6.30-gentoo", "/usr/src/linux-6.6.30-gentoo"),
    ("ID=own", "6.1", "the package of Own Linux 1 with the headers of this kernel"),
]


@pytest.mark.parametrize(
    ("text", "release", "said"), SAID, ids=[f"{row[0].split()[0]}-{row[1]}" for row in SAID]
)
def test_what_is_said(host: Host, text: str, release: str, said: str) -> None:
    put(host, f'PRETTY_NAME="Own Linux 1"\n{text}\n')
    assert said in how_to_install(host, Release(release))


def test_where_usr_is_an_image(host: Host) -> None:
    put(host, "ID=fedora\nVARIANT_ID=coreos\nVERSION_ID=43\n")
    put(host, "", "run/ostree-booted")
    assert "'rpm-ostree install kernel-devel-6.17.1-300.fc43.x86_64'" in how_to_install(
        host, Release("6.17.1-300.fc43.x86_64")
    )


@pytest.mark.parametrize(
    ("said", "package"), [("linux-lts\n", "linux-lts-headers"), ("; rm -rf /", "linux-headers")]
)
def test_what_archs_kernel_says_of_its_package(host: Host, said: str, package: str) -> None:
    put(host, "ID=cachyos\nID_LIKE=arch\n")
    put(host, said, "usr/lib/modules/6.12.1-2-lts/pkgbase")
    assert f"'pacman -S {package}'" in how_to_install(host, Release("6.12.1-2-lts"))


def test_a_release_is_no_part_of_a_command(host: Host) -> None:
    put(host, "ID=debian\n")
    assert "'apt install 'linux-headers-6.1; reboot''" in how_to_install(host, Release("6.1; reboot"))


def test_the_second_place(host: Host) -> None:
    put(host, "NAME='Flat\\'s car'\nID=flatcar\n", "usr/lib/os-release")
    known = distribution(host)
    assert known is not None
    assert (known.name, known.families, known.version) == ("Flat's car", ("flatcar",), "")


def test_nothing_is_said_where_nothing_is_known(host: Host) -> None:
    assert distribution(host) is None
    assert how_to_install(host, Release("6.1")) == ""


@pytest.mark.parametrize("what", ["endless", "fifo", "binary", "controls"])
def test_what_is_no_such_file(host: Host, what: str) -> None:
    path = put(host, "")
    if what == "endless":
        os.truncate(path, 1 << 30)
    elif what == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif what == "binary":
        path.write_bytes(b"ID=debian\xff")
    else:
        path.write_text(
            f'PRETTY_NAME="\x1b[31m{"x" * 1000}"\nID=../../etc\nID_LIKE="{"a " * 100000}"\n'[:60000]
        )
    known = distribution(host)
    if what == "controls":
        assert known is not None
        assert (len(known.families), len(known.name) < 100, known.name.isprintable()) == (8, True, True)
    else:
        assert known is None


def test_a_link_out_of_an_image_is_not_followed(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "os-release"
    outside.write_text("ID=debian\n")
    host.path("etc").mkdir(exist_ok=True)
    host.path("etc/os-release").symlink_to(outside)
    assert distribution(host) is None
