"""A package of rpm's, by dnf in the fetch unit of a host that says it is Fedora."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import container
from tests.support.container import Container, running
from tests.support.directories import for_all_users
from tests.support.package import package
from tests.support.rpm_repository import RpmKey, RpmRepository, rpm_served
from tests.support.running import INTERFACE, NAME, OBJECT

pytestmark = pytest.mark.slow

RELEASE = "6.1.99-200.fc37.x86_64"
UNSIGNED = "6.1.98-200.fc37.x86_64"
BY_ANOTHER = "6.1.97-200.fc37.x86_64"
"""Signed with a key that the host's database of rpm has."""

_HOST = """\
rm /etc/os-release
printf 'ID=fedora\\nVERSION_ID=37\\n' >/etc/os-release
mkdir -p /etc/yum.repos.d /etc/pki/rpm-gpg
# Debian's rpm has its database in the user's home.
mkdir -p /etc/rpm
echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
rpm --initdb
rpm --import /srv/key/other.asc
cp /srv/key/test.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-test-37
cat >/etc/yum.repos.d/test.repo <<'END'
[test]
name=Test
baseurl=file:///srv/packages
gpgcheck=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-test-$releasever
END
"""


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """The directory of a signed repository, and of the key."""
    with for_all_users("kh-units-") as directory:
        keys = RpmKey(directory / "key"), RpmKey(directory / "key", "other")
        with rpm_served(directory / "repository", keys[0]) as repository:
            _publish(repository, keys[1])
        for key in keys:
            key.close()
        yield directory


def _publish(repository: RpmRepository, other: RpmKey) -> None:
    repository.add_kernel(RELEASE)
    repository.add_kernel(BY_ANOTHER, key=other)
    repository.add_kernel(UNSIGNED, signed=False)
    repository.publish()


@pytest.fixture(scope="module")
def fedora(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Container]:
    """A container with dnf, whose own files say that it is Fedora."""
    binds = {"/srv/packages": packages / "repository", "/srv/key": packages / "key"}
    directory = tmp_path_factory.mktemp("fedora")
    with running("fedora", directory, binds, container.DNF) as machine:
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


def test_kernel_devel(fedora: Container) -> None:
    status, printed = _ask(fedora, RELEASE)
    assert status == 0, printed + fedora.journal()
    assert "kernel-devel 6.1.99-200.fc37.x86_64" in fedora.do(
        "busctl", "call", NAME, OBJECT, INTERFACE, "Describe"
    )
    assert fedora.do("sh", "-c", f"cat /var/cache/kheaders/{RELEASE}-*/tree/include/linux/types.h")
    assert "kheaders-fetch@" in fedora.journal("-u", "kheaders-fetch@*")


def test_a_key_that_the_administrator_imported(fedora: Container) -> None:
    status, printed = _ask(fedora, BY_ANOTHER)
    assert status == 0, printed


def test_an_unsigned_package(fedora: Container) -> None:
    status, printed = _ask(fedora, UNSIGNED)
    assert status != 0
    assert "rpmkeys did not verify kernel-devel-6.1.98" in printed


def test_a_download_writes_to_no_entry(fedora: Container) -> None:
    status, printed = _ask(fedora, RELEASE)
    assert status == 0, printed
    entry = fedora.do("sh", "-c", f"echo /var/cache/kheaders/{RELEASE}-*")
    wrapper = "/usr/local/bin/dnf-3"
    cache = "/var/cache/kheaders"
    written = [f"{cache}/.packages/by-dnf", f"{cache}/by-dnf", f"{entry}/by-dnf", f"{entry}/tree/by-dnf"]
    lines = [f"echo >{path}" for path in written]
    fedora.write(wrapper, "\n".join(["#!/bin/sh", *lines, 'exec /usr/bin/dnf-3 "$@"\n']))
    fedora.do("chmod", "+x", wrapper)
    _ask(fedora, "6.1.96-200.fc37.x86_64")
    found = fedora.do("find", cache, "-name", "by-dnf")
    fedora.do("rm", wrapper, *found.split())
    assert found == written[0]


def test_nothing_is_left(fedora: Container) -> None:
    left = "find /var/cache/kheaders/.packages -name 'run-*' -o -name '*.rpm'"
    assert fedora.do("sh", "-c", left) == ""
    assert fedora.do("rpm", "--query", "--all").startswith("gpg-pubkey-")
    assert fedora.do("systemctl", "--failed", "--no-legend") == ""
