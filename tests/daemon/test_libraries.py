"""The whole daemon with either D-Bus library: dbus-fast serves where dbus-next cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kheadersd.dbus.codec import Variant
from tests.support.callers import HEADERS, NO_OPTIONS, acquire, client, error
from tests.support.libraries import without_dbus_next
from tests.support.raw import INTERFACE, Reply
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon
from tests.support.served_host import RELEASE, ServedHost

pytestmark = pytest.mark.slow

PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.fixture(params=["dbus_next", "dbus_fast"])
def daemon(
    request: pytest.FixtureRequest, host: ServedHost, bus: Bus, make_daemon: MakeDaemon, tmp_path: Path
) -> Daemon:
    """The daemon, with one of the libraries."""
    library = str(request.param)
    environment = _environment(library, tmp_path)
    check = "from kheadersd.dbus.codec import LIBRARY; print(LIBRARY)"
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == library
    return make_daemon(bus, root=host.root, environment=environment)


def _environment(library: str, tmp_path: Path) -> dict[str, str]:
    """What makes a program import this library, and not the other one."""
    path = "" if library == "dbus_next" else without_dbus_next(tmp_path / "hidden")
    return {"PYTHONPATH": path}


def test_headers_by_busctl(bus: Bus, daemon: Daemon) -> None:
    path, details = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert (details["release"], details["source"], details["fresh"]) == (RELEASE, "sysfs", True)
    assert details["environment"] == {"BCC_KERNEL_SOURCE": path, "BPFTRACE_KERNEL_SOURCE": path}
    assert Path(path, "include/linux/kconfig.h").exists()
    cached = {**details, "fresh": False}
    again = bus.call("GetHeaders", "sa{sv}", RELEASE, "1", "sources", "as", "2", "tree", "sysfs")
    assert again == [path, cached]
    assert bus.call("Lookup", "s", "") == [path, cached]
    assert bus.call("ListEntries") == [[cached]]
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert bus.call("Prune", "a{sv}", "0") == [[], 0]
    assert bus.get("LastError") == ["", ""]
    assert bus.call("Remove", "sa{sv}", "", "1", "force", "b", "true") == [details["bytes"]]
    assert bus.get("EntryCount") == 0
    assert daemon.leftovers() == []


def test_leases(bus: Bus, daemon: Daemon) -> None:
    with client(bus.socket) as caller:
        lease = acquire(caller, reason=Variant("s", "Gründe"))
        ((release, sender, uid, pid, reason),) = bus.call("ListLeases")[0]
        assert (release, sender, uid, pid, reason) == (RELEASE, caller.name, 0, os.getpid(), "Gründe")
        assert bus.get("LeaseCount") == 1
        assert caller.call("Remove", HEADERS, ["", NO_OPTIONS]).name == "org.kheaders.Provide.Error.InUse"
        os.close(lease)
        assert caller.call("Remove", HEADERS, ["", NO_OPTIONS]).name == ""


@pytest.mark.parametrize(
    ("member", "signature", "values", "expected"),
    [
        ("GetHeaders", HEADERS, ["a/b", NO_OPTIONS], "InvalidArgs"),
        ("GetHeaders", HEADERS, ["", {"refresh": Variant("u", 1)}], "InvalidArgs"),
        ("GetHeaders", HEADERS, ["", {"sources": Variant("av", [Variant("s", "tree")])}], "InvalidArgs"),
        ("GetHeaders", HEADERS, ["", {"unknown": Variant("b", True)}], "InvalidArgs"),
        ("GetHeaders", "s", [""], "InvalidArgs"),
        ("Acquire", HEADERS, ["", {"reason": Variant("s", "x" * 257)}], "InvalidArgs"),
        ("Nonsense", "", [], "UnknownMethod"),
    ],
)
def test_refusals(
    bus: Bus, daemon: Daemon, member: str, signature: str, values: list[Any], expected: str
) -> None:
    with client(bus.socket) as caller:
        assert caller.call(member, signature, values).name == error(expected)
        assert caller.call("Lookup", "s", [RELEASE]).name == "org.kheaders.Provide.Error.NotCached"


def test_properties_and_their_signal(bus: Bus, daemon: Daemon) -> None:
    with client(bus.socket) as caller, client(bus.socket) as listener:
        rule = f"type='signal',sender='{INTERFACE}',interface='{PROPERTIES}'"
        assert listener.ask_bus("AddMatch", "s", [rule]) == Reply("", [])
        assert caller.call("GetHeaders", HEADERS, ["", NO_OPTIONS]).name == ""
        seen: dict[str, Any] = {}
        while seen.get("EntryCount") != 1:
            seen |= _changed(listener)
        values = caller.call("GetAll", "s", [INTERFACE], interface=PROPERTIES).values[0]
        assert values["EntryCount"].value == 1
        assert values["CacheBytes"].value == seen["CacheBytes"]
        assert tuple(values["LastError"].value) == ("", "")
        refused = caller.call("Set", "ssv", [INTERFACE, "Version", Variant("s", "9")], interface=PROPERTIES)
        assert refused.name == error("PropertyReadOnly")


def _changed(listener: Any) -> dict[str, Any]:
    from kheadersd.dbus import codec as library

    while True:
        _, fields, body = listener.receive()
        if fields.member == "PropertiesChanged":
            _, values, _ = library.decode(fields.signature, body)
            return {name: variant.value for name, variant in values.items()}
