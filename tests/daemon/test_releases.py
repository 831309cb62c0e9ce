"""A daemon on kernels whose releases are free text, and on images that run none."""

from __future__ import annotations

import json
import os

import pytest

from kheadersd.release import Release, escape
from tests.support.archives import make_kheaders
from tests.support.clients import Ctl
from tests.support.hosts import put_tree
from tests.support.running import Bus, MakeDaemon, Refused
from tests.support.served_host import ServedHost

pytestmark = pytest.mark.slow

ODD = [
    "4.19.157-Perf_v2@host",
    "6.1.0-my:lab,x=y",
    "6.10.0-0.rc0^20240521git#1",
    "6.1.0 (a b) and c",
    "-rf",
    ".hidden",
    "6.1..2",
    "6.1.0-ядро",
    "$(id)`'\\*?[a-z]%41",
    "\u202e\u200b\u2028",
    "é" * 32,
    "@" * 64,
]


def _run(host: ServedHost, release: str) -> None:
    (host.root / "proc/sys/kernel/osrelease").write_text(release + "\n")


@pytest.mark.parametrize("release", ODD)
def test_headers_are_extracted_kept_and_removed(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, release: str
) -> None:
    _run(host, release)
    host.show(make_kheaders(release))
    daemon = make_daemon(bus, root=host.root)
    assert bus.get("RunningRelease") == release
    path, details = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert (details["release"], details["source"]) == (release, "sysfs")
    assert escape(Release(release)) in path
    assert path.isascii()
    assert daemon.entries() == [f"{escape(Release(release))}-{details['digest']}"]

    assert daemon.stop() == 0
    daemon.start()
    assert bus.call("Lookup", "s", "--", release) == [path, details | {"fresh": False}]
    assert bus.call("Verify", "sa{sv}", "--", release, "0") == [True, []]
    assert json.loads(bus.call("Describe")[0])["host"]["running_release"] == release
    ctl = Ctl(bus)
    assert json.loads(ctl("get", "--json", "--", release).stdout)["path"] == path
    shown = ctl("status").stdout
    assert all(character.isprintable() or character == "\n" for character in shown)
    (freed,) = bus.call("Remove", "sa{sv}", "--", release, "0")
    assert freed > 0
    assert daemon.entries() == []


@pytest.mark.parametrize("release", ODD)
def test_headers_are_served_in_place(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, release: str
) -> None:
    host.archive.unlink()
    _run(host, release)
    build = put_tree(host.root / "lib/modules" / release / "build", release)
    make_daemon(bus, root=host.root)
    path, details = bus.call("GetHeaders", "sa{sv}", "--", release, "0")
    assert (path, details["source"]) == (str(build), "tree")
    other = bus.call("GetHeaders", "sa{sv}", "--", "x" + release[:30], "0")
    assert isinstance(other, Refused)
    assert "no source has headers" in other.message


def test_an_image_that_runs_no_kernel(bus: Bus, host: ServedHost, make_daemon: MakeDaemon) -> None:
    (host.root / "proc/sys/kernel/osrelease").unlink()
    build = put_tree(host.root / "lib/modules/6.1-image/build", "6.1-image")
    daemon = make_daemon(bus, root=host.root)
    assert bus.get("RunningRelease") == ""
    for member in ("GetHeaders", "Acquire", "GetTypes", "Remove", "Verify"):
        refused = bus.call(member, "sa{sv}", "", "0")
        assert isinstance(refused, Refused)
        assert "osrelease: No such file or directory; name the release" in refused.message
    assert bus.call("GetHeaders", "sa{sv}", "6.1-image", "0")[0] == str(build)
    # What the kernel of this machine shows is not the image's either.
    refused = bus.call("GetHeaders", "sa{sv}", os.uname().release, "0")
    assert isinstance(refused, Refused)
    assert "is of an unknown kernel, which runs" in refused.message
    status = Ctl(bus)("status")
    assert status.returncode == 0
    assert [line.split(":")[1].strip() for line in status.stdout.splitlines()[1:3]] == ["unknown"] * 2
    assert Ctl(bus)("get").returncode == 3
    assert "serves an unknown kernel" in daemon.log.read_text()


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"a/b\n", b"x" * 65, b"6.1\n6.2\n"])
def test_a_release_that_cannot_travel_on_the_bus(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, content: bytes
) -> None:
    (host.root / "proc/sys/kernel/osrelease").write_bytes(content)
    os.makedirs(os.fsencode(host.root) + b"/lib/modules/bad\xff/kernel")
    make_daemon(bus, root=host.root)
    assert bus.get("RunningRelease") == ""
    assert "osrelease: " in bus.call("GetHeaders", "sa{sv}", "", "0").message
    assert bus.call("ListEntries") == [[]]
