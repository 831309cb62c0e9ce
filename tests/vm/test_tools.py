"""Unmodified tracing tools, with nothing configured: headers come when they look for them, and go again.

Debian 12's bcc must not be run without headers where /tmp has a kheaders-<release>: it removes things then
that are not its own. So where there is nothing to provide, only bpftrace is run.
"""

from __future__ import annotations

import shlex

import pytest

from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.service import BUILD, CACHE, COMPILE_LIMIT, UNIT, forget, give_compilers_time
from tests.vm.suites import everywhere
from tests.vm.tracing import (
    TASK_STRUCT,
    TCP_CONNECTION,
    TOOL_LIMIT,
    bpftrace,
    seconds_to_first_line,
    traced,
)

_IDLE_LIMIT = 180.0  # seconds; the automount's own limit is a minute, looked at now and then
_MOUNTED = "systemctl is-active run-kheaders-build.mount"

# Needs the headers twice: for the types of a function's arguments, and for what they point to.
_FILES = """\
#include <linux/fs.h>
#include <linux/path.h>
#include <linux/dcache.h>
kprobe:vfs_open { printf("opened %s\\n", str(((struct path *)arg0)->dentry->d_name.name)); exit(); }
BEGIN { printf("ready\\n"); }"""


@pytest.fixture
def untouched(guest: Guest) -> Guest:
    """The guest, in which nobody has looked for headers, and bcc has no way of its own."""
    guest.check("test ! -e /tmp/kheaders-$(uname -r)")
    assert guest.check("readlink /lib/modules/$(uname -r)/build") == BUILD
    assert guest.run(_MOUNTED).status != 0
    assert guest.run("env | grep -i -e ^BCC -e ^BPFTRACE").output == ""
    return guest


@everywhere
def test_opensnoop(untouched: Guest) -> None:
    line = traced(untouched, "opensnoop-bpfcc -n cat", "COMM", "cat /etc/hostname", "hostname")
    assert "/etc/hostname" in line
    untouched.check(_MOUNTED)
    assert "ro," in untouched.check(f"findmnt -n -t ext4 -o OPTIONS --mountpoint {BUILD}")
    untouched.check("test ! -e /tmp/kheaders-$(uname -r)")


def test_a_tool_with_heavy_headers(untouched: Guest) -> None:
    line = traced(untouched, "tcplife-bpfcc", "PID", TCP_CONNECTION, "127.0.0.1")
    assert "python3" in line


@everywhere
def test_bpftrace_with_a_structure_of_the_kernel(untouched: Guest) -> None:
    said = bpftrace(untouched, TASK_STRUCT)
    size = int(said.rpartition(" has ")[2].split()[0])
    assert 1000 < size < 20000


def test_bpftrace_with_a_probe(untouched: Guest) -> None:
    program = shlex.quote(_FILES)
    assert "opened" in traced(untouched, f"bpftrace -e {program}", "ready", "cat /etc/hostname", "opened")


def test_cold_and_with_the_service_stopped(untouched: Guest) -> None:
    """Nothing is cached and nothing runs: the look into the directory brings all of it."""
    forget(untouched)
    untouched.check(f"systemctl stop {UNIT}")
    assert untouched.run(f"ls -d {CACHE}/*/").status != 0
    assert "task_struct" in bpftrace(untouched, TASK_STRUCT)
    untouched.check(f"systemctl is-active {UNIT}")


def test_from_the_start_of_a_tool_to_its_first_line(untouched: Guest, figures: Figures) -> None:
    """On a host that has the headers in nothing but the module."""
    give_compilers_time(untouched)
    tool, precompiled = "execsnoop-bpfcc", "kheadersctl exec --precompiled -- execsnoop-bpfcc"

    def seconds(command: str) -> float:
        return seconds_to_first_line(untouched, command, "P?COMM ", timeout=COMPILE_LIMIT)

    # The first one also reads from the disk what all of them run.
    made, with_it = seconds(precompiled), seconds(precompiled)
    forget(untouched)
    first, later = seconds(tool), seconds(tool)
    untouched.check("systemctl stop run-kheaders-build.automount kheaders-link.service " + UNIT)
    untouched.check("! test -e /lib/modules/$(uname -r)/build && ! test -d /sys/module/kheaders")
    alone = seconds(tool)  # bcc loads the module itself, and extracts to /tmp
    untouched.check("test -d /tmp/kheaders-$(uname -r)")
    figures.add(f"{tool} until its first line, with bcc alone", alone, "s")
    for what, measured, aim in (
        ("the first time", first, 1.0),
        ("later", later, 0.4),
        ("--precompiled, the first time", made, None),
        ("--precompiled, later", with_it, 0.2),
    ):
        figures.add(f"  with kheadersd, {what}, against alone", measured / alone, aim=aim)


def test_the_automount_goes_idle_and_comes_back(untouched: Guest, figures: Figures) -> None:
    untouched.check(f"ls {BUILD}/include/linux/kconfig.h && {_MOUNTED}", timeout=TOOL_LIMIT)
    idle = untouched.wait_for(f"! {_MOUNTED}", timeout=_IDLE_LIMIT, every=2)
    figures.add("headers unmounted after", idle, "s")
    untouched.check("systemctl is-active run-kheaders-build.automount")
    untouched.check(f"systemctl stop {UNIT}")
    assert "task_struct" in bpftrace(untouched, TASK_STRUCT)
    untouched.check(f"{_MOUNTED} && systemctl is-active {UNIT}")


def test_an_ordinary_user_may_look(untouched: Guest) -> None:
    listing = untouched.check(f"ls {BUILD}/include/linux/kconfig.h", user="somebody", timeout=TOOL_LIMIT)
    assert listing == f"{BUILD}/include/linux/kconfig.h"
    assert untouched.run(f"touch {BUILD}/include/x").status != 0


def test_four_at_once(untouched: Guest) -> None:
    forget(untouched)
    look = f"ls {BUILD}/include/linux/kconfig.h >/dev/null || exit 1"
    script = (
        f'for i in 1 2 3 4; do ( {look} ) & all="$all $!"; done; for p in $all; do wait $p || exit 1; done'
    )
    untouched.check(script, timeout=TOOL_LIMIT)


def test_where_there_is_nothing_tools_behave_as_without_us(untouched: Guest, figures: Figures) -> None:
    forget(untouched)
    module = untouched.check("modinfo -n kheaders")
    untouched.check(f"mv {module} /root/ && depmod")
    done = untouched.run(["bpftrace", "-e", TASK_STRUCT], timeout=TOOL_LIMIT)
    assert done.status == 1
    assert "file not found" in done.errors or "cannot open file" in done.errors
    figures.add("bpftrace finds out that there is nothing after", done.seconds, "s")
    # What needs no headers does not care, and nothing has failed.
    assert "hello" in bpftrace(untouched, 'BEGIN { printf("hello\\n"); exit(); }')
    for _ in range(6):  # more than a unit may be started within ten seconds
        assert untouched.run(f"ls {BUILD}/include").status != 0
    assert untouched.check("systemctl is-active run-kheaders-build.automount") == "active"
    # Without us it takes as long.
    untouched.check("systemctl stop kheaders-link.service && ! test -e /lib/modules/$(uname -r)/build")
    without = untouched.run(["bpftrace", "-e", TASK_STRUCT], timeout=TOOL_LIMIT)
    assert without.status == 1
    figures.add("the same without kheadersd", without.seconds, "s")
    untouched.check("systemctl start kheaders-link.service")
    # And when there is something again, it is there.
    untouched.check(f"mv /root/{module.rpartition('/')[2]} {module} && depmod")
    untouched.wait_for(f"ls {BUILD}/include/linux/kconfig.h", timeout=TOOL_LIMIT, every=1)
    assert untouched.check("systemctl is-system-running") == "running"


def test_a_path_that_exists_is_never_touched(guest: Guest) -> None:
    link = "/lib/modules/$(uname -r)/build"
    guest.check(f"systemctl stop kheaders-link.service; ! test -e {link}; ln -s /nowhere {link}")
    guest.check("systemctl start kheaders-link.service")
    assert guest.check(f"readlink {link}") == "/nowhere"
    guest.check("systemctl stop kheaders-link.service")
    assert guest.check(f"readlink {link}") == "/nowhere"
