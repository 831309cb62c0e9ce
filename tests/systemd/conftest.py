"""The project as it is installed: in a container of its own for the tests of one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apt_repository import Key, Repository, served
from tests.support.container import Container, running
from tests.support.directories import for_all_users
from tests.support.kheaders import RealHeaders
from tests.support.package import package

RELEASE = "6.1.99-1-amd64"
"""A release of which only the repository has headers."""

# The kernel of the machine that the tests run on has no headers anywhere: the daemon serves another host,
# whose kernel has a real kheaders.ko.
_OTHER_HOST = """\
mkdir -p /srv/host/proc/sys/kernel /srv/host/sys /srv/host/lib/modules/{release}/kernel/kernel
echo {release} >/srv/host/proc/sys/kernel/osrelease
test ! -e /srv/made || cp /srv/made/kheaders.ko /srv/host/lib/modules/{release}/kernel/kernel/
mkdir -p /srv/host/etc/apt/apt.conf.d /srv/host/etc/apt/preferences.d /srv/host/var/lib/apt/lists/partial
mkdir -p /srv/host/var/lib/dpkg
touch /srv/host/var/lib/dpkg/status
echo 'deb [arch=amd64 signed-by=/srv/key/public.gpg] http://127.0.0.1:8000 stable main' \
    >/srv/host/etc/apt/sources.list
mkdir -p /etc/systemd/system/kheadersd.service.d
printf '[Service]\\nExecStart=\\nExecStart=/usr/bin/kheadersd --root /srv/host\\n' \
    >/etc/systemd/system/kheadersd.service.d/host.conf
systemctl daemon-reload
systemctl try-restart kheadersd.service
"""


def serve_other_host(container: Container, headers: RealHeaders) -> None:
    """Let the daemon serve a host whose running kernel has the real module, if that is bound to /srv/made."""
    # What is done unasked at boot would be done amid some test.
    container.wait_for("systemctl --quiet is-active kheaders.target")
    container.wait_for('[ "$(systemctl show -P ActiveState kheaders-boot.service)" = inactive ]')
    container.shell(_OTHER_HOST.format(release=headers.release))


@pytest.fixture(scope="module")
def packages() -> Iterator[tuple[Path, Path]]:
    """The directories of a signed repository with the headers of `RELEASE`, and of the key."""
    with for_all_users("kh-units-") as directory:
        key = Key(directory / "key")
        with served(directory / "repository", key) as repository:
            _publish(repository)
        key.close()
        yield directory / "repository", directory / "key"


def _publish(repository: Repository) -> None:
    repository.add_split(RELEASE, "6.1.99-1")
    repository.publish()


@pytest.fixture(scope="module")
def empty_machine(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Container]:
    """One that the project is not installed on."""
    with running("empty", tmp_path_factory.mktemp("machine")) as container:
        yield container


@pytest.fixture(scope="module")
def machine(
    tmp_path_factory: pytest.TempPathFactory, real_headers: RealHeaders, packages: tuple[Path, Path]
) -> Iterator[Container]:
    """One that the project is installed on, and serves `real_headers.release` as the running kernel."""
    binds = {"/srv/made": real_headers.module.parent, "/srv/packages": packages[0], "/srv/key": packages[1]}
    with running("machine", tmp_path_factory.mktemp("machine"), binds) as container:
        container.install(package())
        serve_other_host(container, real_headers)
        yield container


@pytest.fixture(autouse=True)
def starts_are_counted_anew(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the tests of a file start the daemon more often than a broken one may be started."""
    yield
    for container in (request.node.funcargs or {}).values():
        if isinstance(container, Container):
            container.run("systemctl", "reset-failed", "kheadersd.service")


@pytest.fixture
def configure(machine: Container) -> Iterator[Callable[[str, str], None]]:
    """Give units drop-ins, as in ``configure("some.service", "[Service]\\nNice=1")``, until the test ends."""
    written: list[str] = []

    def write(unit: str, text: str) -> None:
        path = f"/run/systemd/system/{unit}.d/zz-test.conf"
        machine.write(path, text)
        written.append(path)
        machine.do("systemctl", "daemon-reload")

    yield write
    machine.do("rm", "-f", *written)
    machine.do("systemctl", "daemon-reload")
