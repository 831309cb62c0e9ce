"""kheadersctl against the daemon itself."""

from __future__ import annotations

import itertools
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kheadersd import __version__
from tests.support.archives import make_kheaders
from tests.support.clients import Ctl, wait_until
from tests.support.running import Bus, Daemon, Refused
from tests.support.served_host import RELEASE, ServedHost


@pytest.fixture
def ctl(bus: Bus, daemon: Daemon) -> Ctl:
    assert daemon.entries() == []
    return Ctl(bus)


def test_get_and_list(ctl: Ctl, daemon: Daemon) -> None:
    done = ctl("get")
    assert (done.returncode, done.stderr) == (0, "")
    path = done.stdout.removesuffix("\n")
    assert Path(path, "include/linux/kconfig.h").exists()
    details = json.loads(ctl("get", RELEASE, "--json").stdout)
    assert details["path"] == path
    assert details["fresh"] is False
    assert json.loads(ctl("get", "--refresh", "--json").stdout)["fresh"] is True
    assert RELEASE in ctl("list").stdout
    (entry,) = json.loads(ctl("list", "--json").stdout)
    assert entry["source_tree"] == path
    assert len(daemon.entries()) == 1


def test_exec_holds_a_lease_while_the_command_runs(ctl: Ctl, bus: Bus) -> None:
    with ctl.started("exec", "--", "sh", "-c", 'echo "$BCC_KERNEL_SOURCE"; read word; exit 7') as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == ctl("get").stdout.strip()
        assert bus.get("LeaseCount") == 1
        assert "kheadersctl exec sh\n" in ctl("status").stdout
        held = ctl("remove")
        assert (held.returncode, held.stdout) == (1, "")
        assert "leased" in held.stderr
        process.communicate("go on\n", timeout=10)
        assert process.returncode == 7
    wait_until(lambda: bus.get("LeaseCount") == 0)
    assert ctl("exec", "--", "true").returncode == 0
    assert ctl("exec", "--", "/nowhere").returncode == 127
    wait_until(lambda: bus.get("LeaseCount") == 0)


def test_exec_tells_nobody_what_the_command_is_given(ctl: Ctl, bus: Bus, daemon: Daemon) -> None:
    """It may be a password; every user can read the reasons of leases."""
    script = "echo ready; read word"
    with ctl.started("exec", "--", "/bin/sh", "-c", script, "hunter2", "--password=hunter2") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        ((*_, reason),) = bus.call("ListLeases")[0]
        assert reason == "kheadersctl exec sh"
        for text in (str(bus.call("Describe")), ctl("status").stdout, daemon.log.read_text()):
            assert "kheadersctl exec sh" in text
            assert "hunter2" not in text
        records = [path.read_bytes() for path in daemon.cache.rglob("*") if path.is_file()]
        assert any(b"kheadersctl exec sh" in record for record in records)
        assert not any(b"hunter2" in record for record in records)
        process.communicate("go on\n", timeout=10)
    wait_until(lambda: bus.get("LeaseCount") == 0)


def test_env(ctl: Ctl) -> None:
    path = ctl("get").stdout.strip()
    assert f"BCC_KERNEL_SOURCE={path}" in ctl("env").stdout.replace("'", "")
    assert json.loads(ctl("env", "--json").stdout) == {
        "BCC_KERNEL_SOURCE": path,
        "BPFTRACE_KERNEL_SOURCE": path,
    }


def test_verify_and_remove(ctl: Ctl, daemon: Daemon) -> None:
    path = Path(ctl("get").stdout.strip())
    done = ctl("verify")
    assert (done.returncode, "intact" in done.stdout) == (0, True)
    changed = path / "arch/x86/include/asm/ptrace.h"
    changed.chmod(0o644)
    changed.write_text("#define EVIL\n")
    done = ctl("verify", "--json")
    assert done.returncode == 1
    (verdict,) = json.loads(done.stdout)
    assert "ptrace.h" in verdict["problems"][0]
    assert ctl("get").returncode == 0
    done = ctl("remove", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["bytes_freed"] > 0
    assert daemon.entries() == daemon.leftovers() == []


def test_prune_unload_and_status(ctl: Ctl, host: ServedHost) -> None:
    assert ctl("prune").returncode == 0
    host.archive.unlink()
    unloaded = ctl("unload")
    assert (unloaded.returncode, unloaded.stdout, unloaded.stderr) == (0, "absent\n", "")
    status = ctl("status")
    assert (status.returncode, __version__ in status.stdout) == (0, True)
    assert json.loads(ctl("status", "--json").stdout)["version"] == __version__


def test_status_does_not_count_as_a_use(ctl: Ctl, bus: Bus, daemon: Daemon) -> None:
    path = ctl("get").stdout.strip()
    (entry,) = daemon.cache.glob("6*/entry.json")
    long_ago = time.time() - 3600
    assert daemon.stop() == 0
    os.utime(entry, (long_ago, long_ago))
    daemon.start()
    # A look at the trees in place, which finds none, and no use of the entry.
    assert isinstance(bus.call("GetHeaders", "sa{sv}", "", "1", "sources", "as", "1", "tree"), Refused)
    for _ in range(2):
        assert f"{path} (from sysfs)" in ctl("status").stdout
    assert entry.stat().st_mtime == pytest.approx(long_ago, abs=1)


def test_monitor(ctl: Ctl, bus: Bus) -> None:
    heard: set[str] = set()
    enough = threading.Event()

    def change_something() -> None:
        # For long enough to be told: what is as before when the daemon tells of properties is not told.
        for member in itertools.cycle(("GetHeaders", "Remove")):
            bus.call(member, "sa{sv}", "", "0")
            if enough.wait(0.3):
                return

    with ctl.started("monitor", "--json") as monitor, ThreadPoolExecutor(1) as executor:
        assert monitor.stdout is not None
        changing = executor.submit(change_something)
        try:
            while not heard >= {"EntryAdded", "EntryRemoved", "PropertiesChanged"}:
                heard.add(json.loads(monitor.stdout.readline())["signal"])
        finally:
            enough.set()
        changing.result()
        monitor.send_signal(signal.SIGINT)
        rest = monitor.communicate(timeout=10)[0].splitlines()
    assert monitor.returncode == 130
    assert all("signal" in json.loads(line) for line in rest)


def test_exit_codes(ctl: Ctl, bus: Bus, host: ServedHost, daemon: Daemon) -> None:
    assert ctl("remove").returncode == 3, "nothing is cached"
    assert ctl("get", "6.99.0-none").returncode == 3
    assert ctl("get", "../etc").returncode == 2
    assert ctl("get", "--dance").returncode == 2
    host.show(make_kheaders("5.10.0-other"))
    wrong = ctl("get", "--source", "sysfs")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "5.10.0-other" in wrong.stderr
    nobody = Ctl(bus, user="nobody")
    for command in (["remove"], ["prune"], ["unload"], ["get", "--refresh"]):
        done = nobody(*command)
        assert (done.returncode, done.stdout) == (4, ""), command
        assert done.stderr.startswith("kheadersctl: ")
        assert "manage" in done.stderr
    assert nobody("status").returncode == nobody("list").returncode == 0
    host.show(make_kheaders(RELEASE))
    assert nobody("get").returncode == 0
    daemon.stop()
    gone = ctl("get")
    assert (gone.returncode, gone.stdout) == (5, "")
    assert "kheadersd does not answer" in gone.stderr
