"""Packages of openSUSE's, by zypper in the fetch unit of a host that says it is openSUSE."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import container
from tests.support.container import Container, running
from tests.support.directories import for_all_users
from tests.support.package import package
from tests.support.rpm_repository import RpmKey
from tests.support.running import INTERFACE, NAME, OBJECT
from tests.support.suse_repository import SuseRepository, sources_of, suse_served

pytestmark = pytest.mark.slow

VERSION = "6.4.0-150600.23.47"
RELEASE = f"{VERSION}-default"
UNSIGNED = "6.4.0-150600.23.33"
CACHE = "/var/cache/kheaders"

_HOST = """\
rm /etc/os-release
printf 'ID="opensuse-leap"\\nID_LIKE="suse opensuse"\\nVERSION_ID="15.6"\\n' >/etc/os-release
mkdir -p /etc/zypp/repos.d
# Debian's rpm has its database in the user's home.
mkdir -p /etc/rpm
echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
rpm --initdb
rpm --import /srv/key/test.asc
cat >/etc/zypp/repos.d/repo-oss.repo <<'END'
[repo-oss]
name=Main Repository
enabled=1
autorefresh=1
baseurl=http://127.0.0.1:8000/repository
END
systemd-run --quiet --unit=web python3 -m http.server --bind 127.0.0.1 --directory /srv/packages 8000
"""


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """The directory of a repository, of two whose signed lists name files elsewhere, and of the key."""
    with for_all_users("kh-units-") as directory:
        key = RpmKey(directory / "key")
        with suse_served(directory / "web/repository", key) as repository:
            _publish(repository)
            for number in (3, 4):
                _lie(repository, directory / f"web/up-{number}", "../" * number)
        key.close()
        yield directory


def _publish(repository: SuseRepository) -> None:
    repository.add_kernel(VERSION)
    repository.add_kernel(UNSIGNED)
    repository.add("kernel-devel", UNSIGNED, sources_of(UNSIGNED), signed=False)
    repository.publish()


def _lie(repository: SuseRepository, copy: Path, up: str) -> None:
    shutil.copytree(repository.directory, copy)
    repomd = copy / "repodata/repomd.xml"
    (primary,) = repomd.parent.glob("*-primary.xml.gz")
    # libzypp asks the server for this, and keeps the name for the file.
    shutil.copy(primary, copy.parent / "by-list")
    repomd.write_text(re.sub(r'href="[^"]*-primary\.xml\.gz"', f'href="{up}by-list"', repomd.read_text()))
    repository.key.sign_lists(repomd)


@pytest.fixture(scope="module")
def suse(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Container]:
    """A container with zypper, whose own files say that it is openSUSE."""
    binds = {"/srv/packages": packages / "web", "/srv/key": packages / "key"}
    directory = tmp_path_factory.mktemp("suse")
    with running("suse", directory, binds, container.ZYPPER) as machine:
        machine.install(package())
        machine.shell(_HOST)
        yield machine


def _ask(machine: Container, release: str) -> tuple[int, str]:
    done = machine.run(
        *("busctl", "--json=short", "--timeout=200", "call", NAME, OBJECT, INTERFACE),
        *("GetHeaders", "sa{sv}", release, "1", "sources", "as", "1", "package"),
        timeout=220,
    )
    return done.returncode, done.stdout + done.stderr


def test_two_packages(suse: Container) -> None:
    status, printed = _ask(suse, RELEASE)
    assert status == 0, printed + suse.journal()
    described = suse.do("busctl", "call", NAME, OBJECT, INTERFACE, "Describe")
    assert f"kernel-default-devel {VERSION}.1, kernel-devel {VERSION}.1" in described
    for header in ("include/linux/types.h", "include/generated/utsrelease.h"):
        assert suse.do("sh", "-c", f"cat {CACHE}/{RELEASE}-*/tree/{header}")
    assert "kheaders-fetch@" in suse.journal("-u", "kheaders-fetch@*")


def test_an_unsigned_package(suse: Container) -> None:
    status, printed = _ask(suse, f"{UNSIGNED}-default")
    assert status != 0
    assert "kernel-devel" in printed
    assert suse.run("sh", "-c", f"ls -d {CACHE}/{UNSIGNED}-*").returncode != 0


@pytest.mark.parametrize(("number", "place"), [(3, f"{CACHE}/.packages/by-list"), (4, f"{CACHE}/by-list")])
def test_signed_lists_that_lead_out(suse: Container, number: int, place: str) -> None:
    """libzypp before 17.38.10 writes there (CVE-2026-25707): the unit lets it write to no entry."""
    repository = "/etc/zypp/repos.d/repo-oss.repo"
    before = suse.do("cat", repository)
    suse.write(repository, before.replace("/repository", f"/up-{number}") + "\n")
    status, printed = _ask(suse, "6.4.0-1-default")
    suse.write(repository, before + "\n")
    assert status != 0
    assert "could not use all repositories" in printed
    found = suse.do("find", CACHE, "-name", "by-list").split()
    suse.do("rm", "-f", *found)
    version = suse.do("sh", "-c", "dpkg-query --show --showformat='${Version}' 'libzypp1[0-9]*'")
    is_mended = suse.run("dpkg", "--compare-versions", version, "ge", "17.38.10").returncode == 0
    assert found == ([] if is_mended or number == 4 else [place])


def test_nothing_is_left(suse: Container) -> None:
    left = f"find {CACHE}/.packages -name 'run-*' -o -name '*.rpm'"
    assert suse.do("sh", "-c", left) == ""
    assert suse.do("rpm", "--query", "--all").startswith("gpg-pubkey-")
    assert suse.do("systemctl", "--failed", "--no-legend") == ""
    owners = suse.do("find", f"{CACHE}/.packages", "-printf", "%u\\n").split()
    assert set(owners) == {"kheadersd"}
