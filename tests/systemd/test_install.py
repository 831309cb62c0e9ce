"""Installing on a clean machine with one command, and taking it away again."""

from __future__ import annotations

import pytest

from tests.support.container import SOURCE, Container
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow

# Logs and what the kernel makes are not files of the machine's.
_LISTING = """\
find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /srv -o -path /var/log -o \
-path /run/log -o -path /run/systemd -o -path /run/udev -o -path /var/lib/private \\) -prune -o -print
find /run -mindepth 1 -maxdepth 1 | grep kheaders || true
"""
_UNITS = sorted(
    path.name
    for pattern in (
        "kheaders*.service",
        "*.socket",
        "*.timer",
        "*.target",
        "*.path",
        "*.mount",
        "*.automount",
    )
    for path in (REPOSITORY / "units").glob(pattern)
)


def listing(machine: Container) -> set[str]:
    # Written by the tools of the system when users come and go.
    backups = {f"/etc/{name}-" for name in ("passwd", "shadow", "group", "gshadow")}
    return set(machine.shell(_LISTING).splitlines()) - backups - {"/etc/.pwd.lock"}


def test_there_and_back(empty_machine: Container) -> None:
    machine = empty_machine
    machine.shell("mkdir -p /lib/modules/$(uname -r)/kernel")
    before = listing(machine)
    users = machine.do("cat", "/etc/passwd", "/etc/group")
    machine.do(f"{SOURCE}/dev", "install")

    assert machine.do("systemctl", "is-system-running") == "running"
    assert machine.do("kheadersctl", "status").startswith("Version:")
    assert machine.unit("kheadersd.service", "ActiveState") == "active"
    assert machine.do("readlink", f"/lib/modules/{machine.do('uname', '-r')}/build") == "/run/kheaders/build"
    done = machine.run("systemd-analyze", "verify", "--man=no", *_UNITS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "kheadersd has started" in machine.do("journalctl", "--catalog", "--no-pager", "-u", "kheadersd")

    machine.do(f"{SOURCE}/dev", "install")
    assert machine.do("systemctl", "is-system-running") == "running"
    machine.write("/var/cache/kheaders/marker", "")

    machine.do(f"{SOURCE}/dev", "uninstall")
    assert listing(machine) - before == {"/var/cache/kheaders", "/var/cache/kheaders/marker"} | {
        name for name in listing(machine) if name.startswith("/var/cache/kheaders/.")
    }
    assert before - listing(machine) == set()
    assert machine.run("busctl", "status", "org.kheaders.Provide").returncode
    assert machine.do("systemctl", "list-units", "--all", "--no-legend", "kheaders*", "run-kheaders*") == ""

    machine.do(f"{SOURCE}/dev", "uninstall", "--purge")
    assert listing(machine) == before
    assert machine.do("cat", "/etc/passwd", "/etc/group") == users
    assert machine.do("systemctl", "is-system-running") == "running"
