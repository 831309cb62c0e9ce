"""The module source on a real kernel: loaded, read, unloaded, and whose it is.

Where it does not matter, the archive that is read is not extracted again: the same one was, at boot, and that
is known by its digest. An emulated machine takes some twenty seconds for it.
"""

from __future__ import annotations

import re

import pytest

from kheadersd.events import Event
from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.service import (
    CACHE,
    CALL_LIMIT,
    MODULE_UNIT,
    UNIT,
    answer,
    call,
    entries,
    forget,
    get_headers,
    main_pid,
    module_is_loaded,
    property_of,
    refusal,
    start_getting,
)
from tests.vm.suites import everywhere

_SERVICE = "org.kheaders.Provide /org/kheaders/Provide"
_PING = f"{_SERVICE} org.freedesktop.DBus.Peer Ping"
_GONE = "! test -d /sys/module/kheaders"
_LOADED = "test -e /sys/kernel/kheaders.tar.xz"
_RESIDENCE_ALLOWANCE = 0.5  # seconds beyond the time that reading the archive takes
_DETECTION_LIMIT = 1.0  # seconds
_VMALLOC_NOISE = 1024  # KiB: what other things of the kernel come and go meanwhile
# Shorter than the four seconds in which the daemon, when it is told to end, sees to an end what is under way.
_UNLOADING_STOPS = "remove kheaders sleep 2; /sbin/modprobe -r --ignore-remove kheaders\n"
_LOADING_STOPS = "install kheaders sleep 2; /sbin/modprobe --first-time --ignore-install kheaders\n"


@pytest.fixture
def events(guest: Guest) -> Guest:
    """The guest, which notes the kernel's events of modules in /tmp/events from now on."""
    guest.check(
        "stdbuf -oL udevadm monitor --kernel --subsystem-match=module >/tmp/events </dev/null 2>&1 & "
        "until grep -q ^KERNEL /tmp/events; do sleep 0.05; done"
    )
    return guest


def _event_times(guest: Guest, action: str) -> list[float]:
    """Seconds on the guest's monotonic clock."""
    text = guest.read("/tmp/events").decode()
    return [float(time) for time in re.findall(rf"KERNEL\[([\d.]+)\] {action} +/module/kheaders ", text)]


@everywhere
def test_loaded_read_and_unloaded(events: Guest, figures: Figures) -> None:
    _, from_file = get_headers(events)
    forget(events)
    before = _vmalloc_used(events)
    path, details = get_headers(events, "module")
    assert details["source"] == "module"
    assert details["fresh"]
    assert [details[name] for name in ("digest", "files")] == [
        from_file[name] for name in ("digest", "files")
    ]
    assert events.check("uname -r") in events.check(f"cat {path}/include/generated/utsrelease.h")
    assert not module_is_loaded(events)
    assert property_of(events, "ModuleState") == "available"
    assert property_of(events, "ModuleOwned") is False
    (loaded,), (unloaded,) = _event_times(events, "add"), _event_times(events, "remove")
    assert abs(_vmalloc_used(events) - before) < _VMALLOC_NOISE
    events.check("journalctl --sync")
    for event in (Event.MODULE_LOADED, Event.MODULE_UNLOADED):
        assert len(entries(events, event.message_id)) == 1
    reading = _reading_time(events)
    figures.add("reading the archive", reading, "s")
    figures.add("module in the kernel", unloaded - loaded, "s", aim=reading + _RESIDENCE_ALLOWANCE)


def _vmalloc_used(guest: Guest) -> int:
    """KiB that the kernel has in use for modules and the like."""
    return int(guest.check("sed -n 's/^VmallocUsed: *//p' /proc/meminfo").split()[0])


def _reading_time(guest: Guest) -> float:
    """Seconds to read the archive once, by a program that is running already."""
    script = (
        "import time; started = time.monotonic(); open('/sys/kernel/kheaders.tar.xz', 'rb', 0).read(); "
        "print(time.monotonic() - started)"
    )
    seconds = float(guest.check(f'modprobe kheaders && python3 -c "{script}"'))
    guest.check("modprobe -r kheaders")
    return seconds


def test_loaded_by_somebody_else_is_read_and_stays(guest: Guest) -> None:
    guest.check("modprobe kheaders")
    for source in ("module", "sysfs"):
        assert get_headers(guest, source)[1]["source"] == source
        assert module_is_loaded(guest)
        assert property_of(guest, "ModuleState") == "loaded"
        assert property_of(guest, "ModuleOwned") is False
    # Also when the daemon is gone and comes back.
    pid = main_pid(guest)
    guest.check(f"kill -KILL {pid}")
    guest.wait_for(f"busctl call {_PING} && [ $(systemctl show -P MainPID {UNIT}) != {pid} ]")
    assert module_is_loaded(guest)
    assert property_of(guest, "ModuleOwned") is False


def test_unload_module_unloads_what_somebody_else_loaded(guest: Guest) -> None:
    guest.check("modprobe kheaders")
    assert call(guest, "UnloadModule", "a{sv}", "0") == ["available"]
    assert not module_is_loaded(guest)


# Somebody takes the module away as soon as it is there; the first time, or again and again.
_THIEF = (
    "( taken=0; while [ $taken -lt {times} ]; do "
    f"if {_LOADED}; then rmmod kheaders 2>/dev/null && taken=$((taken + 1)); fi; done; "
    "echo $taken >/tmp/taken ) </dev/null >/dev/null 2>&1 &"
)


def test_taken_away_half_way(guest: Guest) -> None:
    guest.check(_THIEF.format(times=1))
    start_getting(guest, "module")
    said = answer(guest)
    # It may be too fast for the thief, or he too fast for it: either is right, and both recover.
    assert said.startswith(f"('{CACHE}/") or "org.kheaders.Provide.Error." in said, said
    guest.wait_for(_GONE)
    get_headers(guest, "module-file")
    guest.wait_for("test -e /tmp/taken || { modprobe kheaders; false; }")  # he has gone home
    _, details = get_headers(guest, "module")
    assert details["source"] == "module"
    assert not module_is_loaded(guest)


def test_taken_away_again_and_again(guest: Guest) -> None:
    pid = main_pid(guest)
    guest.check(_THIEF.format(times=1000))
    start_getting(guest, "module")
    said = answer(guest)
    assert said.startswith(f"('{CACHE}/") or "org.kheaders.Provide.Error." in said, said
    assert main_pid(guest) == pid
    guest.wait_for(f"{_GONE} && [ $(systemctl is-active {MODULE_UNIT}) = inactive ]")
    assert property_of(guest, "ModuleOwned") is False


_STEPS = {
    "while it is loaded": (_LOADING_STOPS, f"systemctl is-active {MODULE_UNIT} | grep -q activating"),
    "when it is loaded": (_UNLOADING_STOPS, _LOADED),
    "while it is unloaded": (_UNLOADING_STOPS, f"systemctl is-active {MODULE_UNIT} | grep -q deactivating"),
}


def test_killed_at_each_step_nothing_is_left(guest: Guest) -> None:
    for step, (hold, moment) in _STEPS.items():
        pid = main_pid(guest)
        guest.write("/etc/modprobe.d/hold.conf", hold)
        start_getting(guest, "module")
        guest.check(
            f"until {moment}; do [ -e /tmp/answer ] && exit 1; done; kill -KILL {pid}", timeout=CALL_LIMIT
        )
        assert "Error" in answer(guest), step  # that the service is gone
        guest.wait_for(f"busctl call {_PING} && [ $(systemctl show -P MainPID {UNIT}) != {pid} ]")
        guest.wait_for(f"{_GONE} && [ $(systemctl is-active {MODULE_UNIT}) = inactive ]")
        assert property_of(guest, "ModuleOwned") is False, step
    guest.check("rm /etc/modprobe.d/hold.conf")
    assert get_headers(guest, "module")[1]["source"] == "module"
    assert not module_is_loaded(guest)
    assert guest.check("systemctl --failed --no-legend") == ""


def test_stopped_at_each_step_nothing_is_left(guest: Guest) -> None:
    for step, (hold, moment) in _STEPS.items():
        guest.write("/etc/modprobe.d/hold.conf", hold)
        start_getting(guest, "module")
        guest.check(
            f"until {moment}; do [ -e /tmp/answer ] && exit 1; done; systemctl stop {UNIT}",
            timeout=CALL_LIMIT,
        )
        # At once, not when it is started again.
        assert not module_is_loaded(guest), step
        assert guest.run(f"systemctl is-active {MODULE_UNIT}").output.strip() == "inactive", step
        guest.check(f"systemctl start {UNIT}")
    guest.check("rm /etc/modprobe.d/hold.conf")
    assert guest.check("systemctl --failed --no-legend") == ""


def test_refused_by_the_administrator(guest: Guest) -> None:
    guest.write("/etc/modprobe.d/never.conf", "install kheaders /bin/false\n")
    name, message = refusal(guest, "GetHeaders", "", "{'sources': <['module']>}")
    assert name in ("NotAvailable", "ModuleFailed"), message
    assert guest.check("systemctl --failed --no-legend") == ""
    assert guest.check("systemctl is-system-running") == "running"


def test_loads_and_unloads_by_others_are_noticed(events: Guest, figures: Figures) -> None:
    match = "path=/org/kheaders/Provide,interface=org.freedesktop.DBus.Properties,member=PropertiesChanged"
    monitor = f'stdbuf -oL dbus-monitor --system --profile "{match}"'
    events.check(
        f"{monitor} >/tmp/changes </dev/null 2>&1 & until grep -q . /tmp/changes; do sleep 0.1; done"
    )
    since_boot = _epoch_of_boot(events)
    for command, action, state in (
        ("modprobe kheaders", "add", "loaded"),
        ("modprobe -r kheaders", "remove", "available"),
    ):
        known = len(_changes(events))
        events.check(command)
        events.wait_for(f"[ $(grep -c PropertiesChanged /tmp/changes) -gt {known} ]", timeout=10)
        assert property_of(events, "ModuleState") == state
        (happened,) = _event_times(events, action)
        told = _changes(events)[known] - since_boot
        figures.add(f"'{command}' noticed after", told - happened, "s", aim=_DETECTION_LIMIT)


def _epoch_of_boot(guest: Guest) -> float:
    """When its monotonic clock was at 0."""
    now, up = guest.check("read up rest </proc/uptime; echo $EPOCHREALTIME $up").split()
    return float(now) - float(up)


def _changes(guest: Guest) -> list[float]:
    """When the service told of changed properties, in seconds since the epoch."""
    lines = guest.read("/tmp/changes").decode().splitlines()
    signals = [line.split("\t") for line in lines if line.startswith("sig\t")]
    return [float(fields[1]) for fields in signals if "PropertiesChanged" in fields]
