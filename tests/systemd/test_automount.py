"""/run/kheaders/build, and the link that leads tools there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.container import Container
from tests.support.hosts import put_tree
from tests.support.kheaders import RealHeaders
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow

KCONFIG = "/run/kheaders/build/include/linux/kconfig.h"
MOUNT = "run-kheaders-build.mount"

Configure = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def unmounted(machine: Container) -> None:
    # The service remembers for a while that there was nothing.
    machine.run("systemctl", "stop", MOUNT, "kheaders-provide.service")
    machine.do("systemctl", "start", "run-kheaders-build.automount")


@pytest.fixture
def no_headers(machine: Container) -> Iterator[None]:
    """A host that has nothing to provide."""
    machine.shell("mv /srv/host/lib/modules /srv/host/lib/away; rm -rf /var/cache/kheaders/[0-9]*")
    yield
    machine.shell("mv /srv/host/lib/away /srv/host/lib/modules")


def is_mounted(machine: Container) -> bool:
    return machine.run("systemctl", "is-active", MOUNT).returncode == 0


def test_looking_is_enough(machine: Container, real_headers: RealHeaders) -> None:
    machine.shell("rm -rf /var/cache/kheaders/[0-9]*")
    assert not is_mounted(machine)
    text = machine.do("cat", "/run/kheaders/build/include/generated/utsrelease.h", user="nobody")
    assert f'"{real_headers.release}"' in text
    options = machine.do("findmnt", "--noheadings", "--output=FSTYPE,OPTIONS", "/run/kheaders/build")
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(options.splitlines()[-1].split()[1].split(","))
    assert machine.run("touch", "/run/kheaders/build/file").returncode


def test_looking_starts_the_daemon(machine: Container) -> None:
    machine.do("systemctl", "stop", "kheadersd.service")
    machine.do("cat", KCONFIG)
    machine.wait_for("systemctl is-active kheadersd.service")


def test_in_a_sandboxed_service(machine: Container) -> None:
    machine.do(
        *("systemd-run", "--quiet", "--wait", "--pipe", "-p", "ProtectSystem=strict", "-p", "PrivateTmp=yes"),
        *("-p", "DynamicUser=yes", "cat", KCONFIG),
    )


def test_many_at_once(machine: Container) -> None:
    machine.shell(
        "rm -rf /var/cache/kheaders/[0-9]*; for i in 1 2 3 4 5 6 7 8; do cat "
        + KCONFIG
        + ' >/dev/null & p="$p $!"; '
        "done; for i in $p; do wait $i; done"
    )


def test_it_goes_when_nobody_looks(machine: Container, configure: Configure) -> None:
    configure("run-kheaders-build.automount", "[Automount]\nTimeoutIdleSec=1s\n")
    machine.do("systemctl", "restart", "run-kheaders-build.automount")
    machine.do("cat", KCONFIG)
    assert is_mounted(machine)
    machine.wait_for(f"! systemctl is-active {MOUNT}", 30)
    machine.do("cat", KCONFIG)


def test_nothing_to_provide(machine: Container, no_headers: None) -> None:
    for _ in range(20):  # more than systemd lets a unit start in a row by default
        done = machine.run("cat", KCONFIG)
        assert "No such device" in done.stderr
    assert machine.do("systemctl", "--failed", "--no-legend") == ""
    machine.shell("mv /srv/host/lib/away /srv/host/lib/modules")
    machine.wait_for(f"cat {KCONFIG}", 30)
    machine.shell("mv /srv/host/lib/modules /srv/host/lib/away")


def test_many_looks_where_there_is_nothing_ask_once(machine: Container, no_headers: None) -> None:
    """A compiler looks for each header in each directory; without the daemon it would find out at once."""
    asked = "journalctl --quiet --output=cat --unit=kheaders-provide.service | grep -c ^Starting || true"
    before = int(machine.shell(asked))
    for _ in range(50):
        assert "No such device" in machine.run("cat", KCONFIG).stderr
    assert int(machine.shell(asked)) - before <= 3


def test_only_the_cache_is_mounted(machine: Container) -> None:
    """A program that has become the daemon's user cannot have root mount anything else."""
    machine.do("cat", KCONFIG)
    machine.do("systemctl", "stop", MOUNT)
    entry = machine.shell("readlink /run/kheaders/current")
    machine.do("systemctl", "kill", "--signal=STOP", "kheadersd.service")
    try:
        machine.shell(
            f"""\
mkdir -p /srv/secret/include/linux
touch /srv/secret/include/linux/kconfig.h
mv {entry} {entry}.away
ln -s /srv/secret {entry}
"""
        )
    finally:
        machine.do("systemctl", "kill", "--signal=CONT", "kheadersd.service")
    machine.run("cat", KCONFIG)
    assert "secret" not in machine.do("cat", "/proc/self/mountinfo")
    # The new entry is marked as durable meanwhile.
    machine.shell("until rm -rf /var/cache/kheaders/[0-9]*; do :; done")


def test_the_link(machine: Container) -> None:
    build = f"/lib/modules/{machine.do('uname', '-r')}/build"
    machine.shell(
        f"mkdir -p {build.removesuffix('build')}kernel /lib/modules/1.2.3;"
        "ln -s /run/kheaders/build /lib/modules/1.2.3/build"
    )
    machine.do("systemctl", "start", "kheaders-link.service")
    machine.wait_for(f"test -L {build}")
    assert machine.do("readlink", build) == "/run/kheaders/build"
    # A kernel that does not run would have the headers of the one that does.
    assert machine.run("test", "-L", "/lib/modules/1.2.3/build").returncode
    machine.do("cat", f"{build}/include/linux/kconfig.h")
    machine.do("systemctl", "stop", "kheaders-link.service")
    assert machine.run("test", "-L", build).returncode


def test_the_link_is_made_as_often_as_somebody_starts_it(machine: Container) -> None:
    """As while packages are installed: systemd lets a unit start five times in ten seconds by default."""
    build = f"/lib/modules/{machine.do('uname', '-r')}/build"
    machine.shell(f"mkdir -p {build.removesuffix('build')}kernel")
    for _ in range(8):
        machine.do("systemctl", "restart", "kheaders-link.service")
        machine.wait_for(f"test -L {build}")
        machine.do("systemctl", "restart", "kheaders-dkms.path")
    machine.do("systemctl", "stop", "kheaders-link.service")
    assert machine.do("systemctl", "--failed", "--no-legend", "--plain") == ""


def test_the_link_of_fedoras_kernel_package(machine: Container) -> None:
    """It leads nowhere without kernel-devel, which it gives way to; made up, without rpm."""
    release = machine.do("uname", "-r")
    build, headers = f"/lib/modules/{release}/build", f"/usr/src/kernels/{release}"
    machine.shell(f"mkdir -p {build.removesuffix('build')}kernel; ln -s {headers} {build}")
    ours = f'[ "$(readlink {build})" = /run/kheaders/build ]'
    theirs = f'[ "$(readlink {build})" = {headers} ]'
    machine.do("systemctl", "start", "kheaders-link.service")
    machine.wait_for(ours)
    machine.do("cat", f"{build}/include/linux/kconfig.h")
    assert machine.unit("kheaders-relink.path", "ActiveState") == "active"
    # kernel-devel comes, and goes.
    machine.shell(f"mkdir -p {headers}/include; touch {headers}/Makefile")
    machine.wait_for(theirs)
    machine.shell(f"rm -r {headers}")
    machine.wait_for(ours)
    # The machine crashes.
    machine.do("systemctl", "kill", "--signal=KILL", "kheadersd.service")
    machine.do("systemctl", "restart", "kheaders-link.service")
    machine.wait_for(ours)
    machine.do("systemctl", "stop", "kheaders-link.service")
    machine.shell(theirs)
    assert machine.do("ls", "-A", "/var/lib/kheaders-link") == ""
    assert machine.do("systemctl", "--failed", "--no-legend") == ""
    machine.shell(f"rm {build}")


def test_nothing_stays_of_a_kernel_that_is_removed(machine: Container) -> None:
    directory = f"/lib/modules/{machine.do('uname', '-r')}"
    machine.shell(f"rm -rf {directory}; mkdir -p {directory}/kernel")
    machine.do("systemctl", "start", "kheaders-link.service")
    machine.wait_for(f"test -L {directory}/build")
    # dpkg does not know of the link.
    machine.shell(f"rmdir {directory}/kernel")
    machine.wait_for(f"! test -e {directory}")
    machine.do("systemctl", "stop", "kheaders-link.service")


def test_a_tree_that_no_link_leads_to(machine: Container, configure: Configure, tmp_path: Path) -> None:
    """As in WSL: whole, in /usr/src, and of the kernel that runs here."""
    release = machine.do("uname", "-r")
    tree = f"/usr/src/linux-headers-{release}"
    for path in (files := put_tree(tmp_path, release)).rglob("*"):
        if path.is_file():
            machine.write(f"{tree}/{path.relative_to(files)}", path.read_text())
    machine.shell(f"mkdir -p /lib/modules/{release}/kernel")
    configure("kheadersd.service", "[Service]\nExecStart=\nExecStart=/usr/bin/kheadersd\n")
    machine.do("systemctl", "restart", "kheadersd.service", "kheaders-link.service")
    machine.wait_for(f"test -L /lib/modules/{release}/build")
    assert machine.do("kheadersctl", "get") == tree
    assert release in machine.do("cat", f"/lib/modules/{release}/build/include/generated/utsrelease.h")
    # What is not root's is not mounted.
    machine.do("systemctl", "stop", MOUNT, "kheaders-link.service")
    machine.do("chown", "nobody", tree)
    assert "No such device" in machine.run("cat", KCONFIG).stderr
    machine.do("rm", "-r", tree)
    # It serves the other host again when it is asked next.
    machine.do("systemctl", "stop", "kheadersd.service")


def documented(start: str) -> str:
    """The example of docs/distributions.md that begins with this."""
    text = (REPOSITORY / "docs/distributions.md").read_text()
    (found,) = (part for part in text.split("```sh\n")[1:] if part.startswith(start))
    return found.partition("```")[0]


def test_modules_that_cannot_be_written_to(machine: Container) -> None:
    """As on Flatcar: there the environment, or a system extension with the link."""
    release = machine.do("uname", "-r")
    directory = f"/usr/lib/modules/{release}"
    machine.shell(f"mkdir -p {directory}/kernel; rm -f {directory}/build")
    machine.shell("mount --bind /usr/lib/modules /usr/lib/modules; mount -o remount,bind,ro /usr/lib/modules")
    try:
        machine.do("systemctl", "start", "kheaders-link.service")
        assert machine.unit("kheaders-link.service", "ConditionResult") == "no"
        machine.do("systemctl", "start", "kheaders-boot.service")
        machine.wait_for("grep BCC_KERNEL_SOURCE=.*/tree /run/kheaders/environment")
    finally:
        machine.do("umount", "/usr/lib/modules")
    machine.shell(documented("extension="))
    assert machine.do("readlink", f"{directory}/build") == "/run/kheaders/build"
    assert machine.run("touch", f"{directory}/file").returncode
    machine.do("cat", f"/lib/modules/{release}/build/include/linux/kconfig.h")
    machine.shell("systemd-sysext unmerge; rm -r /var/lib/extensions")
    assert machine.run("test", "-L", f"{directory}/build").returncode
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


@pytest.mark.parametrize("theirs", ["ln -s /nonexistent", "ln -s /usr/src", "mkdir", "touch"])
def test_what_exists_is_not_touched(machine: Container, theirs: str) -> None:
    build = f"/lib/modules/{machine.do('uname', '-r')}/build"
    machine.shell(f"mkdir -p {build.removesuffix('build')}kernel; {theirs} {build}")
    before = machine.do("stat", "--format=%F %i %Z %N", build)
    machine.do("systemctl", "start", "kheaders-link.service")
    machine.wait_for('[ "$(systemctl show -P SubState kheaders-link.service)" = exited ]')
    machine.do("systemctl", "stop", "kheaders-link.service")
    assert machine.do("stat", "--format=%F %i %Z %N", build) == before
    assert machine.do("systemctl", "--failed", "--no-legend") == ""
    machine.shell(f"rm -rf {build}")


def test_dkms_is_not_misled(machine: Container) -> None:
    build = f"/lib/modules/{machine.do('uname', '-r')}/build"
    machine.shell(f"mkdir -p {build.removesuffix('build')}kernel")
    machine.do("systemctl", "start", "kheaders-link.service")
    machine.wait_for(f"test -L {build}")
    machine.do("touch", "/usr/sbin/dkms")
    machine.wait_for(f"! test -L {build}")
    machine.wait_for("systemctl --quiet is-active kheaders-dkms.service")
    machine.do("systemctl", "start", "kheaders-link.service")
    assert machine.run("test", "-L", build).returncode
    machine.do("rm", "/usr/sbin/dkms")
    machine.do("systemctl", "stop", "kheaders-dkms.service")


def test_after_the_boot(machine: Container, real_headers: RealHeaders) -> None:
    machine.shell("rm -rf /var/cache/kheaders/[0-9]* /run/kheaders/environment")
    assert machine.unit("kheaders-boot.service", "Type") == "simple", (
        "a start of the machine would wait for it"
    )
    machine.do("systemctl", "start", "kheaders-boot.service")
    machine.wait_for('[ "$(systemctl show -P ActiveState kheaders-boot.service)" = inactive ]')
    assert machine.do("kheadersctl", "list").startswith(real_headers.release)
    done = machine.do(
        *("systemd-run", "--quiet", "--wait", "--pipe", "-p", "EnvironmentFile=/run/kheaders/environment"),
        *("sh", "-c", 'head -n1 "$BCC_KERNEL_SOURCE/include/linux/kconfig.h"'),
    )
    assert done


def test_a_boot_without_headers(machine: Container, no_headers: None) -> None:
    machine.do("systemctl", "start", "kheaders-boot.service")
    machine.wait_for('[ "$(systemctl show -P ActiveState kheaders-boot.service)" = inactive ]')
    assert machine.do("systemctl", "--failed", "--no-legend") == ""
    assert machine.do("cat", "/run/kheaders/environment") == ""
