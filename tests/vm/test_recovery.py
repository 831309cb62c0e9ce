"""What nobody plans: a daemon that stands still, a bus that is restarted, a power cut."""

from __future__ import annotations

from tests.support.running import INTERFACE, NAME, OBJECT
from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.service import CACHE, CALL_LIMIT, UNIT, call, forget, get_headers, main_pid, start_getting

_WATCHDOG = 10.0  # seconds, instead of the unit's own, so that nobody has to wait for a minute
_RESTART_LIMIT = 60.0
_SERVES = f"busctl --timeout=5 call {NAME} {OBJECT} {INTERFACE} Lookup s ''"
_BEING_WRITTEN = f"[ -d {CACHE}/.staging-*/tree/include/linux ]"


def test_a_frozen_daemon_is_restarted(guest: Guest, figures: Figures) -> None:
    assert guest.check(f"systemctl show -P WatchdogUSec {UNIT}") not in ("0", "infinity")
    drop_in = f"[Service]\nWatchdogSec={_WATCHDOG:g}\nTimeoutAbortSec=5\n"
    guest.write(f"/run/systemd/system/{UNIT}.d/watchdog.conf", drop_in)
    guest.check(f"systemctl daemon-reload && systemctl restart {UNIT}")
    pid = main_pid(guest)
    fed = f"systemctl show -P WatchdogTimestampMonotonic {UNIT}"
    guest.wait_for(f"[ $({fed}) != {guest.check(fed)} ]")
    guest.check(f"kill -STOP {pid}")
    restarted = guest.wait_for(
        f"[ $(systemctl show -P MainPID {UNIT}) != {pid} ] && systemctl is-active {UNIT} && {_SERVES}",
        timeout=_WATCHDOG + _RESTART_LIMIT,
    )
    figures.add(f"frozen daemon serves again (watchdog {_WATCHDOG:g} s)", restarted, "s")
    assert guest.check(f"systemctl show -P NRestarts {UNIT}") == "1"
    assert get_headers(guest)[1]["source"] == "module-file"
    assert guest.check("systemctl --failed --no-legend") == ""


def test_the_bus_is_restarted(guest: Guest) -> None:
    guest.check("systemctl restart dbus.service", timeout=CALL_LIMIT)
    guest.wait_for(_SERVES, timeout=CALL_LIMIT)
    guest.wait_for(f"systemctl is-active {UNIT}")
    assert get_headers(guest)[1]["source"] == "module-file"
    assert get_headers(guest, "module")[1]["source"] == "module"


def test_killed_in_the_middle_of_an_extraction(guest: Guest) -> None:
    forget(guest)
    pid = main_pid(guest)
    start_getting(guest, "module-file")
    guest.check(f"until {_BEING_WRITTEN}; do :; done; kill -KILL {pid}", timeout=CALL_LIMIT)
    guest.wait_for(f"[ $(systemctl show -P MainPID {UNIT}) != {pid} ] && systemctl is-active {UNIT}")
    _all_is_well(guest)


def test_power_cut_in_the_middle_of_an_extraction_and_right_after_one(guest: Guest) -> None:
    forget(guest)
    start_getting(guest, "module")
    guest.check(f"until {_BEING_WRITTEN}; do :; done; sync {CACHE}", timeout=CALL_LIMIT)
    guest.cut_power()
    guest.boot()
    assert guest.check("systemctl is-system-running") == "running"
    _all_is_well(guest)
    forget(guest)
    get_headers(guest)
    guest.cut_power()
    guest.boot()
    # Its data need not be on the disk: what is served after the boot is whole nevertheless.
    assert guest.check("systemctl is-system-running") == "running"
    _all_is_well(guest)


def _all_is_well(guest: Guest) -> None:
    get_headers(guest)
    assert call(guest, "Verify", "sa{sv}", "", "0") == [True, []]
    guest.wait_for(f"! ls -d {CACHE}/.staging-* {CACHE}/.trash-*")
    assert len(guest.check(f"ls {CACHE}").splitlines()) == 1
    assert guest.run("test -d /sys/module/kheaders").status != 0
