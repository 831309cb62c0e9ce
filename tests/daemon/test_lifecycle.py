"""A daemon killed or told to stop at any moment, a bus that goes and comes, a cache that is disturbed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.archives import make_kheaders
from tests.support.clients import (
    BIG_FILES,
    Ctl,
    busctl_waits,
    durable,
    go_on,
    halt_when,
    staged,
    staged_files,
    wait_until,
)
from tests.support.running import REPOSITORY, Bus, Daemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = pytest.mark.slow

Stage = Callable[[Daemon], object]

STAGES: dict[str, Stage] = {
    "staging": staged,
    "begun": lambda daemon: staged_files(daemon) > 0,
    "half-way": lambda daemon: staged_files(daemon) >= BIG_FILES / 2,
    "nearly done": lambda daemon: staged_files(daemon) >= BIG_FILES,
    "published": lambda daemon: daemon.entries(),
    "durable": durable,
}


def works(bus: Bus, daemon: Daemon) -> None:
    """Everything is as it should be: the headers can be had, are whole, and nothing else is there."""
    answer = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert not isinstance(answer, Refused), answer
    path, details = answer
    assert sum(len(files) for _, _, files in os.walk(path)) == details["files"]
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert daemon.entries() == [f"{RELEASE}-{details['digest']}"]
    assert daemon.leftovers() == []
    assert {name for name in os.listdir(daemon.cache) if name.startswith(".")} <= {".leases"}
    assert bus.get("Activity") == "idle"


def is_gone(daemon: Daemon) -> bool:
    assert daemon.process is not None
    return daemon.process.poll() is not None


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_each_stage(bus: Bus, big_daemon: Daemon, stage: str) -> None:
    with busctl_waits(bus) as caller:
        halt_when(big_daemon, lambda: STAGES[stage](big_daemon))
        if stage in ("staging", "begun", "half-way", "nearly done"):
            assert staged(big_daemon), "it was too late"
            assert not big_daemon.entries()
        if stage == "published":
            assert not durable(big_daemon), "it was too late"
        big_daemon.kill()
        caller.wait(5)
        if not big_daemon.entries():
            assert caller.returncode, "the caller was told that the headers are there"
    big_daemon.start()
    assert big_daemon.leftovers() == []
    works(bus, big_daemon)
    wait_until(lambda: durable(big_daemon))


@pytest.mark.slow
def test_killed_again_and_again(bus: Bus, big_daemon: Daemon) -> None:
    for moment in (0.0, 0.1, 0.3):
        with busctl_waits(bus):
            wait_until(lambda: staged(big_daemon) or big_daemon.entries())
            time.sleep(moment)
            big_daemon.kill()
        big_daemon.start()
    works(bus, big_daemon)


def test_killed_while_it_removes(bus: Bus, big_daemon: Daemon) -> None:
    works(bus, big_daemon)
    command = ["busctl", f"--address={bus.address}", "call", "org.kheaders.Provide", "/org/kheaders/Provide"]
    with subprocess.Popen(
        [*command, "org.kheaders.Provide", "Remove", "sa{sv}", "", "0"], stderr=subprocess.DEVNULL
    ):
        wait_until(lambda: list(big_daemon.cache.glob(".trash-*")))
        big_daemon.kill()
    big_daemon.start()
    works(bus, big_daemon)


def test_leases_outlive_a_killed_daemon(bus: Bus, big_daemon: Daemon) -> None:
    with Ctl(bus).holds_a_lease() as holder:
        with busctl_waits(bus, "GetHeaders"):
            big_daemon.kill()
        big_daemon.start()
        assert bus.get("LeaseCount") == 1
        ((release, owner, uid, pid, reason),) = bus.call("ListLeases")[0]
        assert (release, uid, pid) == (RELEASE, 0, holder.pid)
        assert owner.startswith(":")
        assert reason.startswith("kheadersctl exec sh")
        refused = bus.call("Remove", "sa{sv}", "", "0")
        assert isinstance(refused, Refused)
        assert "leased" in refused.message
        works(bus, big_daemon)
        holder.kill()
        holder.wait()
        wait_until(lambda: bus.get("LeaseCount") == 0)
    (freed,) = bus.call("Remove", "sa{sv}", "", "0")
    assert freed > 0


def test_leases_that_ended_while_there_was_no_daemon_are_over(bus: Bus, daemon: Daemon) -> None:
    with Ctl(bus).holds_a_lease():
        daemon.kill()
    daemon.start()
    assert bus.get("LeaseCount") == 0
    assert os.listdir(daemon.cache / ".leases") == []


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("staging", signal.SIGTERM),
        ("half-way", signal.SIGTERM),
        ("half-way", signal.SIGINT),
        ("published", signal.SIGTERM),
        ("durable", signal.SIGTERM),
    ],
)
def test_told_to_stop_at_each_stage(bus: Bus, big_daemon: Daemon, stage: str, number: signal.Signals) -> None:
    with busctl_waits(bus) as caller:
        halt_when(big_daemon, lambda: STAGES[stage](big_daemon))
        unfinished = not big_daemon.entries()
        assert big_daemon.process is not None
        big_daemon.process.send_signal(number)
        go_on(big_daemon)
        assert big_daemon.process.wait(20) == 0, big_daemon.log.read_text()
        _, complaint = caller.communicate(timeout=5)
        if unfinished:
            assert caller.returncode
            assert "cancelled" in complaint
            assert big_daemon.entries() == []
        else:
            assert durable(big_daemon), "what was begun is finished"
    assert set(os.listdir(big_daemon.cache)) - set(big_daemon.entries()) == set()
    big_daemon.start()
    works(bus, big_daemon)


def test_stopped_with_leases_and_started_again(bus: Bus, daemon: Daemon) -> None:
    with Ctl(bus).holds_a_lease():
        assert daemon.stop() == 0
        daemon.start()
        assert bus.get("LeaseCount") == 1
    wait_until(lambda: bus.get("LeaseCount") == 0)


# The bus


@pytest.mark.slow
def test_the_bus_restarts(bus: Bus, big_daemon: Daemon) -> None:
    works(bus, big_daemon)
    with Ctl(bus).holds_a_lease():
        descriptors = big_daemon.descriptors()
        for _ in range(2):
            bus.stop()
            time.sleep(0.3)
            bus.start()
            big_daemon.wait_until_ready()
            works(bus, big_daemon)
            assert bus.get("LeaseCount") == 1
            assert isinstance(bus.call("Remove", "sa{sv}", "", "0"), Refused)
        # At most: what was being published just before may have been counted.
        wait_until(lambda: big_daemon.descriptors() <= descriptors)
    wait_until(lambda: bus.get("LeaseCount") == 0)
    log = big_daemon.log.read_text()
    assert log.count("The bus was lost") == 2
    assert log.count("Connected to the bus again") == 2


def test_the_bus_dies_during_an_extraction(bus: Bus, big_daemon: Daemon) -> None:
    with busctl_waits(bus) as caller:
        halt_when(big_daemon, lambda: staged_files(big_daemon) >= BIG_FILES / 4)
        bus.stop()
        go_on(big_daemon)
        assert caller.wait(5)
    wait_until(lambda: not staged(big_daemon))
    assert big_daemon.entries() == [], "no caller waits any more"
    bus.start()
    big_daemon.wait_until_ready()
    works(bus, big_daemon)


def test_stopped_while_the_bus_is_away(bus: Bus, daemon: Daemon) -> None:
    bus.stop()
    wait_until(lambda: "The bus was lost" in daemon.log.read_text())
    assert daemon.stop() == 0
    bus.start()


def test_a_bus_that_comes_late(bus: Bus, host: ServedHost, tmp_path: Path) -> None:
    bus.stop()
    daemon = Daemon(bus, host.root, tmp_path / "cache", tmp_path / "late.log")
    daemon.start(wait=False)
    time.sleep(0.5)
    bus.start()
    daemon.wait_until_ready()
    works(bus, daemon)
    assert daemon.stop() == 0


@pytest.mark.slow
def test_no_bus_at_all(bus: Bus, host: ServedHost, tmp_path: Path) -> None:
    bus.stop()
    daemon = Daemon(bus, host.root, tmp_path / "cache", tmp_path / "none.log")
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 1
    assert "kheadersd cannot run" in daemon.log.read_text()
    assert str(bus.socket) in daemon.log.read_text()
    assert daemon.traceback() == ""


def test_without_stderr(bus: Bus, host: ServedHost, tmp_path: Path) -> None:
    daemon = Daemon(bus, host.root, tmp_path / "cache", tmp_path / "log")
    daemon.prefix = ("sh", "-c", 'exec "$@" 2>&-', "sh")
    daemon.start()
    assert daemon.stop() == 0


def test_no_session_bus(host: ServedHost, tmp_path: Path) -> None:
    """A trial ends at once, with the reason, and leaves nothing."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBUS_")}
    done = subprocess.run(
        [sys.executable, "-m", "kheadersd", "--session", f"--root={host.root}"],
        cwd=REPOSITORY,
        env={**environment, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "kheadersd cannot run: there is no session bus" in done.stderr
    assert "dbus-run-session" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".cache").exists()


@pytest.fixture
def mute(bus: Bus) -> Bus:
    """A program listens where the bus should be, and says nothing."""
    bus.stop()
    return bus


def test_stopped_while_the_bus_says_nothing(mute: Bus, host: ServedHost, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(mute.socket))
        listening.listen()
        daemon = Daemon(mute, host.root, tmp_path / "cache", tmp_path / "mute.log")
        daemon.start(wait=False)
        with listening.accept()[0] as theirs:
            theirs.recv(1)
            assert daemon.stop() == 0, daemon.log.read_text()


@pytest.mark.slow
def test_a_bus_that_never_says_anything(mute: Bus, host: ServedHost, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(mute.socket))
        listening.listen()
        daemon = Daemon(mute, host.root, tmp_path / "cache", tmp_path / "mute.log")
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1
        assert "did not answer" in daemon.log.read_text()
        assert daemon.traceback() == ""


# The cache directory


@pytest.mark.parametrize("what", ["staging", "everything", "contents"])
def test_the_cache_is_removed_during_an_extraction(bus: Bus, big_daemon: Daemon, what: str) -> None:
    with busctl_waits(bus) as caller:
        halt_when(big_daemon, lambda: staged_files(big_daemon) >= BIG_FILES / 4)
        match what:
            case "staging":
                shutil.rmtree(staged(big_daemon)[0])
            case "everything":
                shutil.rmtree(big_daemon.cache)
            case "contents":
                subprocess.run(["find", str(big_daemon.cache), "-mindepth", "1", "-delete"], check=True)
        go_on(big_daemon)
        answer, complaint = caller.communicate(timeout=20)
    assert caller.returncode == 0, complaint
    assert str(big_daemon.cache) in answer
    works(bus, big_daemon)


def test_removed_again_and_again_during_an_extraction(bus: Bus, big_daemon: Daemon) -> None:
    with busctl_waits(bus) as caller:
        for _ in range(3):
            halt_when(big_daemon, lambda: staged_files(big_daemon) >= BIG_FILES / 10)
            shutil.rmtree(big_daemon.cache)
            go_on(big_daemon)
        _, complaint = caller.communicate(timeout=20)
    assert caller.returncode
    assert "removed by another program" in complaint
    works(bus, big_daemon)


def test_a_cache_that_becomes_a_symlink(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    works(bus, daemon)
    elsewhere = tmp_path / "elsewhere"
    daemon.cache.rename(elsewhere)
    daemon.cache.symlink_to(elsewhere)
    (daemon.root / "sys/kernel/kheaders.tar.xz").write_bytes(make_kheaders(RELEASE, {"include/x.h": b"x"}))
    before = sorted(elsewhere.iterdir())
    refused = bus.call("GetHeaders", "sa{sv}", "", "1", "refresh", "b", "true")
    assert isinstance(refused, Refused)
    assert "symbolic link" in refused.message
    assert sorted(elsewhere.iterdir()) == before, "nothing was written there"
    daemon.cache.unlink()
    works(bus, daemon)


@pytest.mark.parametrize("kind", ["symlink", "file", "writable", "foreign"])
def test_a_cache_directory_that_is_not_safe(bus: Bus, host: ServedHost, tmp_path: Path, kind: str) -> None:
    cache = tmp_path / "cache"
    match kind:
        case "symlink":
            cache.symlink_to(host.root)
        case "file":
            cache.write_text("")
        case "writable":
            cache.mkdir()
            cache.chmod(0o777)
        case "foreign":
            cache.mkdir()
            os.chown(cache, 65534, 65534)
    daemon = Daemon(bus, host.root, cache, tmp_path / "unsafe.log")
    daemon.start(wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 1
    log = daemon.log.read_text()
    assert f"the cache directory {cache}" in log
    assert daemon.traceback() == ""
