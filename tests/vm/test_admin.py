"""What an administrator has: busctl, journalctl, systemctl, systemd-analyze."""

from __future__ import annotations

import json
import re

from kheadersd.events import Event
from tests.support.running import INTERFACE, NAME, OBJECT, plain
from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.service import CALL_LIMIT, UNIT, entries, forget, get_headers, start_getting

_SECURITY_LIMIT = 1.0  # systemd's own hostnamed has 1.5


def test_introspect(guest: Guest) -> None:
    shown = guest.check(f"busctl introspect --no-pager {NAME} {OBJECT} {INTERFACE}")
    assert re.search(r"^\.GetHeaders +method +sa\{sv\} +sa\{sv\}", shown, re.MULTILINE)
    assert re.search(r"^\.ModuleState +property +s +\"available\" +emits-change", shown, re.MULTILINE)
    assert re.search(r"^\.Version +property +s +\S+ +const", shown, re.MULTILINE)
    assert re.search(r"^\.EntryAdded +signal +ssa\{sv\}", shown, re.MULTILINE)


def test_properties(guest: Guest) -> None:
    get = f"busctl get-property {NAME} {OBJECT} {INTERFACE}"
    assert guest.check(f"{get} RunningRelease") == f's "{guest.check("uname -r")}"'
    assert guest.check(f"{get} EntryCount") == "u 1"
    assert guest.check(f"{get} Activity") == 's "idle"'
    assert "/org/kheaders/Provide" in guest.check(f"busctl tree --no-pager {NAME}")


def test_monitor(guest: Guest) -> None:
    match = f"type=signal,sender={NAME}"
    # Not every version says when it is ready; the first change that it sees does.
    guest.check(
        f"busctl monitor --json=short --match={match} >/tmp/signals </dev/null 2>&1 & "
        "until grep -q PropertiesChanged /tmp/signals; do "
        "modprobe kheaders; sleep 0.3; modprobe -r kheaders; done"
    )
    forget(guest)
    path, _ = get_headers(guest)
    guest.wait_for("grep -q EntryAdded /tmp/signals")
    lines = guest.read("/tmp/signals").decode().splitlines()
    signals = [json.loads(line) for line in lines if line.startswith("{")]
    told = {signal["member"]: plain(signal["payload"]["data"]) for signal in signals}
    assert told["EntryRemoved"][1] == told["EntryAdded"][1] == path
    assert "Progress" in told
    assert "PropertiesChanged" in told


_TOLD = {
    Event.STARTED: ("RELEASE", "PATH"),
    Event.CACHE_STATE: ("PATH", "BYTES"),
    Event.ENTRY_REMOVED: ("RELEASE", "PATH"),
    Event.ENTRY_ADDED: ("RELEASE", "PATH", "SOURCE", "DIGEST", "BYTES", "DURATION_USEC", "CLIENT_UID"),
    Event.MODULE_LOADED: (),
    Event.MODULE_UNLOADED: (),
    Event.MODULE_CHANGED: (),
}


def test_events_have_their_fields_and_a_text(guest: Guest) -> None:
    # Made at boot; that one is removed, and the next is not waited for.
    forget(guest)
    start_getting(guest, "module")
    unloaded = f"MESSAGE_ID={Event.MODULE_UNLOADED.message_id}"
    guest.wait_for(f"journalctl --boot --quiet {unloaded} | grep -q .", timeout=CALL_LIMIT)
    guest.check("modprobe kheaders")
    changed = f"MESSAGE_ID={Event.MODULE_CHANGED.message_id}"
    guest.wait_for(f"journalctl --boot --quiet {changed} | grep -q .")
    guest.check("modprobe -r kheaders; journalctl --sync")
    for event, fields in _TOLD.items():
        found = entries(guest, event.message_id)
        assert found, event
        assert found[-1]["_SYSTEMD_UNIT"] == UNIT
        assert [name for name in fields if f"KHEADERS_{name}" not in found[-1]] == [], event
        explained = guest.check(f"journalctl --catalog --boot --no-pager MESSAGE_ID={event.message_id}")
        assert "Defined-By: kheadersd" in explained, event
        assert re.search("@[A-Z_]+@", explained) is None, explained


def test_log_level(guest: Guest) -> None:
    assert guest.check(f"systemctl service-log-level {UNIT}") == "info"
    guest.check(f"systemctl service-log-level {UNIT} debug")
    assert guest.check(f"systemctl service-log-level {UNIT}") == "debug"
    guest.check(f"systemctl service-log-level {UNIT} info")
    assert guest.check(f"systemctl service-log-target {UNIT}") in ("auto", "journal")


def test_status(guest: Guest) -> None:
    shown = guest.check(f"systemctl status --no-pager {UNIT}")
    assert "active (running)" in shown
    release = guest.check("uname -r")
    assert release in guest.check("kheadersctl status")
    assert release in guest.check("kheadersctl list")


def test_security(guest: Guest, figures: Figures) -> None:
    shown = guest.check(f"systemd-analyze security --no-pager {UNIT}")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", shown)
    assert found is not None, shown
    figures.add("systemd-analyze security", float(found[1]), aim=_SECURITY_LIMIT)
    assert float(found[1]) <= _SECURITY_LIMIT


def test_verify(guest: Guest, figures: Figures) -> None:
    units = guest.check("ls /usr/lib/systemd/system/ | grep kheaders").split()
    done = guest.run(["systemd-analyze", "verify", "--man=no", *units], timeout=180)
    figures.add("systemd-analyze verify, lines", len(done.said.splitlines()) - 1, aim=0)
    assert done.said == "status 0\n"


def test_reload(guest: Guest) -> None:
    guest.write("/etc/kheadersd.conf.d/level.conf", "[Log]\nLevel=debug\n")
    pid = guest.check(f"systemctl show -P MainPID {UNIT}")
    guest.check(f"systemctl reload {UNIT}")
    guest.check(f"systemctl is-active {UNIT}")
    assert guest.check(f"systemctl show -P MainPID {UNIT}") == pid
    assert get_headers(guest)[1]["source"] == "module-file"
