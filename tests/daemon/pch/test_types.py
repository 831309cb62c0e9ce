"""GetTypes, as programs call it: of the kernel that runs here, which has BTF and no headers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.dbus.codec import Variant
from kheadersd.vmlinux.bpftool import PLACES
from tests.support.callers import HEADERS, NO_OPTIONS, client, error
from tests.support.polkit import POLKITD, Polkit, rule
from tests.support.precompiling import COMPILERS, is_there
from tests.support.raw import INTERFACE, RawClient
from tests.support.running import Bus, Daemon, MakeDaemon, Refused

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not any(list(Path("/").glob(f"{place[1:]}/bpftool")) for place in PLACES),
        reason="there is no bpftool that is taken",
    ),
    pytest.mark.skipif(not os.access("/sys/kernel/btf/vmlinux", os.R_OK), reason="this kernel has no BTF"),
]

RELEASE = os.uname().release
CLANG = next(filter(is_there, COMPILERS), "")


@pytest.fixture
def daemon(bus: Bus, memory: Path, make_daemon: MakeDaemon) -> Daemon:
    return make_daemon(bus, root=Path("/"), cache=memory / "cache")


@pytest.fixture
def nobody(bus: Bus, daemon: Daemon) -> Iterator[RawClient]:
    with client(bus.socket, "nobody") as connected:
        yield connected


def test_they_are_an_entry(bus: Bus, daemon: Daemon) -> None:
    path, details = bus.call("GetTypes", "sa{sv}", "", "0")
    assert path == f"{daemon.cache}/{RELEASE}-{details['digest']}/tree/vmlinux.h"
    assert "struct task_struct {" in Path(path).read_text()
    assert (details["release"], details["source"], details["kind"]) == (RELEASE, "btf", "types")
    assert (details["fresh"], details["files"], details["environment"]) == (True, 1, {})
    assert details["bytes"] >= Path(path).stat().st_size
    again, cached = bus.call("GetTypes", "sa{sv}", RELEASE, "0")
    assert (again, cached["fresh"]) == (path, False)
    assert cached["extracted_at"] == details["extracted_at"] <= cached["last_used"]
    (listed,) = bus.call("ListEntries")[0]
    assert (listed["kind"], listed["digest"]) == ("types", details["digest"])
    # Types are no headers.
    assert isinstance(bus.call("Lookup", "s", ""), Refused)
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert bus.call("Remove", "sa{sv}", "", "0") == [listed["bytes"]]
    assert (daemon.entries(), daemon.leftovers()) == ([], [])


def test_damaged_ones_are_made_again(bus: Bus, daemon: Daemon) -> None:
    path, _ = bus.call("GetTypes", "sa{sv}", "", "0")
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:1000])
    intact, (problem,) = bus.call("Verify", "sa{sv}", "", "0")
    assert not intact
    assert "vmlinux.h" in problem
    again, details = bus.call("GetTypes", "sa{sv}", "", "0")
    assert details["fresh"] is True
    assert Path(again).read_bytes() == whole


@pytest.mark.parametrize(
    ("release", "options", "name", "words"),
    [
        ("1.2.3", NO_OPTIONS, f"{INTERFACE}.Error.NotAvailable", "there is no BTF for 1.2.3"),
        ("../x", NO_OPTIONS, error("InvalidArgs"), "../x"),
        ("", {"refresh": Variant("b", True)}, error("InvalidArgs"), "refresh"),
    ],
)
def test_refusals(
    daemon: Daemon, nobody: RawClient, release: str, options: dict[str, Variant], name: str, words: str
) -> None:
    reply = nobody.call("GetTypes", HEADERS, [release, options])
    assert reply.name == name
    assert words in reply.values[0]
    assert (daemon.entries(), daemon.leftovers()) == ([], [])


@pytest.mark.skipif(not POLKITD.exists(), reason="polkitd is not installed")
def test_who_may(bus: Bus, nobody: RawClient) -> None:
    """To have them made takes consent; every user can read what is there."""
    polkit = Polkit(bus, bus.directory)
    polkit.rules = rule("extract", "no")
    polkit.start()
    try:
        assert nobody.call("GetTypes", HEADERS, ["", NO_OPTIONS]).name == error("AccessDenied")
        path, _ = bus.call("GetTypes", "sa{sv}", "", "0")
        assert nobody.call("GetTypes", HEADERS, ["", NO_OPTIONS]).values[0] == path
    finally:
        polkit.stop()


@pytest.mark.skipif(not CLANG, reason="no clang of a known version is installed")
def test_nobody_takes_them_from_others(bus: Bus, daemon: Daemon) -> None:
    """To drop them takes an authorisation."""
    options = ("2", "compiler", "s", CLANG, "keep_headers", "b", "false")
    path, _ = bus.call("GetTypes", "sa{sv}", "", "0")
    _, _, details = bus.call("GetPch", "ssa{sv}", "", "types", *options, user="nobody")
    assert details["headers_kept"] is True
    assert Path(path).exists()
    _, _, details = bus.call("GetPch", "ssa{sv}", "", "types", *options)
    assert details["headers_kept"] is False
    assert not Path(path).exists()
