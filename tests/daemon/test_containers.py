"""Containers: mount namespaces that see the bus, with the cache read-only or without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.archives import kheaders_files
from tests.support.running import REPOSITORY, Bus, Daemon
from tests.support.served_host import RELEASE


def inside(bus: Bus, mounts: str, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a mount namespace of its own."""
    environment = {
        **os.environ,
        "DBUS_SYSTEM_BUS_ADDRESS": bus.address,
        "PYTHONPATH": str(REPOSITORY),
        "KHEADERSCTL": f"{sys.executable} -m kheadersd.cli",
    }
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f"{mounts}\n{script}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_with_the_cache_read_only_paths_are_valid(bus: Bus, daemon: Daemon) -> None:
    mounts = f"mount --bind {daemon.cache} {daemon.cache}; mount -o remount,bind,ro {daemon.cache}"
    done = inside(
        bus, mounts, 'path=$($KHEADERSCTL get); cat "$path/include/generated/utsrelease.h"; ! touch "$path/x"'
    )
    assert done.returncode == 0, done.stderr
    assert RELEASE in done.stdout
    assert "Read-only file system" in done.stderr


def test_without_the_cache_the_headers_come_through_the_bus(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    mounts = f"mount -t tmpfs tmpfs {daemon.cache}"
    target = tmp_path / "headers"
    target.mkdir()
    done = inside(
        bus,
        mounts,
        f'path=$($KHEADERSCTL get); ! test -e "$path"; $KHEADERSCTL export | tar -x -C {target}',
    )
    assert done.returncode == 0, done.stderr
    for name, content in kheaders_files(RELEASE).items():
        assert (target / name).read_bytes() == content
