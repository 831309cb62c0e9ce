"""The package on a clean machine: installed, used, upgraded, removed, purged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.container import Container, running
from tests.support.kheaders import RealHeaders
from tests.support.package import OLDER, older_package, package
from tests.systemd.conftest import serve_other_host

pytestmark = pytest.mark.slow

# Logs and what the kernel makes are not files of the machine's; dpkg, apt, debconf keep books of their own.
_LISTING = """\
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /srv -o -path /var/log -o \
-path /run/log -o -path /run/systemd -o -path /run/udev -o -path /var/lib/private -o -path /var/lib/dpkg -o \
-path /var/lib/apt -o -path /var/cache/apt -o -path /var/cache/debconf -o -path /var/cache/ldconfig \\) \
-prune -o -print
find /run -mindepth 1 -maxdepth 1 | grep kheaders || true
"""
CACHE = "/var/cache/kheaders"


def listing(machine: Container) -> set[str]:
    # Written by the tools of the system when users come and go.
    backups = {f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow")}
    return set(machine.shell(_LISTING).splitlines()) - backups - {"/etc/.pwd.lock"}


def units(machine: Container) -> list[str]:
    """The package's units."""
    files = machine.do("dpkg-query", "--listfiles", "kheadersd").splitlines()
    return [file.rpartition("/")[2] for file in files if "/systemd/system/" in file]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, real_headers: RealHeaders) -> Iterator[Container]:
    """One that the project is not installed on."""
    binds = {"/srv/made": real_headers.module.parent}
    with running("install", tmp_path_factory.mktemp("machine"), binds) as container:
        container.shell("mkdir -p /lib/modules/$(uname -r)/kernel")
        yield container


def is_well(machine: Container) -> None:
    """All that is installed runs, and systemd has nothing to say about it."""
    machine.wait_for("systemctl --quiet is-active kheaders.target")
    build = f"/lib/modules/{machine.do('uname', '-r')}/build"
    machine.wait_for(f'[ "$(readlink {build})" = /run/kheaders/build ]')
    assert machine.do("systemctl", "--failed", "--no-legend") == ""
    assert machine.do("kheadersctl", "status").startswith("Version:")
    assert machine.unit("kheadersd.service", "ActiveState") == "active"
    assert machine.unit("run-kheaders-build.automount", "ActiveState") == "active"
    done = machine.run("systemd-analyze", "verify", "--man=no", *units(machine))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_there_and_back(machine: Container, real_headers: RealHeaders) -> None:
    before = listing(machine)
    users = machine.do("cat", "/etc/passwd", "/etc/group")

    machine.install(older_package())
    is_well(machine)
    assert OLDER in machine.do("kheadersctl", "--version")
    assert "kheadersd has started" in machine.do("journalctl", "--catalog", "--no-pager", "-u", "kheadersd")
    asked = "from importlib.metadata import version; print(version('kheadersd'))"
    assert machine.do("python3", "-c", asked) == OLDER
    serve_other_host(machine, real_headers)
    tree = machine.do("kheadersctl", "get")
    assert '"version": 1,' in machine.do("cat", f"{tree}/../entry.json")
    daemon = machine.unit("kheadersd.service", "MainPID")

    machine.install(package())
    is_well(machine)
    assert OLDER not in machine.do("kheadersctl", "--version")
    assert machine.unit("kheadersd.service", "MainPID") != daemon
    # The entry was another version's: it is extracted anew.
    assert machine.do("kheadersctl", "get") == tree
    assert '"version": 1,' not in machine.do("cat", f"{tree}/../entry.json")
    machine.do("rm", "-r", "/etc/systemd/system/kheadersd.service.d")

    machine.apt("remove", "kheadersd")
    left = listing(machine) - before
    kept = (CACHE, "/etc/kernel/", "/etc/systemd/system/", "/var/lib/systemd/deb-systemd-helper-enabled")
    assert [name for name in left if not name.startswith(kept)] == []
    assert f"{tree}/include/linux/kconfig.h" in left
    assert before - listing(machine) == set()
    assert machine.run("busctl", "status", "org.kheaders.Provide").returncode
    # That they are enabled is remembered until they are purged.
    assert machine.do("systemctl", "list-units", "--no-legend", "kheaders*", "run-kheaders*") == ""
    # Its hook for kernels stays as a configuration file does, and does nothing.
    machine.do("/etc/kernel/postinst.d/kheadersd", "6.1.0-1-amd64")

    machine.apt("purge", "kheadersd")
    assert listing(machine) == before
    machine.do("systemctl", "daemon-reload")
    assert machine.do("systemctl", "list-units", "--all", "--no-legend", "kheaders*", "run-kheaders*") == ""
    assert machine.do("cat", "/etc/passwd", "/etc/group") == users
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


# What units/install.sh, which is gone, put on a machine; one timer was disabled since.
_FORMER = """\
library=/usr/lib/kheadersd units=/usr/lib/systemd/system
wants=/etc/systemd/system/kheaders.target.wants hook=/usr/lib/kernel/install.d/85-kheadersd.install
mkdir -p $library/kheadersd/__pycache__ $wants
mkdir -p /etc/kernel/postinst.d /etc/kernel/postrm.d /usr/lib/kernel/install.d
echo 'raise SystemExit("the former one")' >$library/kheadersd/__init__.py
touch $library/kheadersd/__pycache__/older.cpython-310.pyc
touch /usr/bin/kheadersd $units/kheaders-older.service $hook
ln -s $library/kheadersd /usr/lib/python3/dist-packages/kheadersd
ln -s $units/kheaders-dkms.path $wants/kheaders-dkms.path
ln -s $hook /etc/kernel/postinst.d/kheadersd
ln -s $hook /etc/kernel/postrm.d/kheadersd
cat >$library/installed <<EOF
$library/
$library/kheadersd/
$library/kheadersd/__init__.py
/usr/lib/python3/dist-packages/kheadersd
/usr/bin/kheadersd
$units/kheaders-older.service
$hook
/etc/kernel/postinst.d/kheadersd
/etc/kernel/postrm.d/kheadersd
$wants/
$wants/kheaders-dkms.path
$wants/kheaders-prune.timer
/srv/../etc/passwd
/home/kept
$library/installed
EOF
touch /home/kept
"""


def test_it_takes_over_what_the_former_script_installed(machine: Container) -> None:
    before = listing(machine)
    machine.shell(_FORMER)
    machine.install(package())
    is_well(machine)
    machine.shell("test ! -e /usr/lib/kheadersd && test ! -L /usr/lib/python3/dist-packages/kheadersd")
    machine.shell("test -e /home/kept && test ! -L /etc/kernel/postinst.d/kheadersd")
    assert machine.run("systemctl", "is-enabled", "kheaders-prune.timer").stdout == "disabled\n"
    assert machine.do("systemctl", "is-enabled", "kheaders-dkms.path") == "enabled"
    machine.apt("purge", "kheadersd")
    assert listing(machine) - before == {"/home/kept"}
    assert before - listing(machine) == set()
