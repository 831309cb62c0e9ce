from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kheadersd.cache.leases import Lease, Leases
from kheadersd.errors import LimitsExceeded, NoSpace
from kheadersd.system.disk import DiskError
from tests.support.running import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ENTRY = "6.1-" + "a" * 64


class Watched:
    """Leases and what they told."""

    def __init__(self, directory: Path, **limits: int) -> None:
        self.changes = 0
        self.ended: list[Lease] = []
        self.leases = Leases(directory, on_change=self._changed, on_end=self.ended.append, **limits)

    def _changed(self) -> None:
        self.changes += 1

    def grant(self, uid: int = 1000, entry: str = ENTRY, reason: str = "tracing") -> int:
        return self.leases.grant(entry, "6.1", ":1.7", uid, 4321, reason)


@pytest.fixture
async def watched(directory: Path) -> AsyncIterator[Watched]:
    watched = Watched(directory)
    yield watched
    watched.leases.close()


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2500):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not happen within 5 s")


async def another_ended(watched: Watched) -> None:
    """Until a lease that is ended now has ended: by then any that ended before has, too."""
    changes, ended = watched.changes, list(watched.ended)
    os.close(watched.grant(entry="another"))
    await until(lambda: not watched.leases.held("another"))
    assert watched.changes == changes + 2
    watched.changes, watched.ended[:] = changes, ended


def holds(watched: Watched, count: int) -> bool:
    return watched.leases.held(ENTRY) == count


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def start(command: list[str], descriptor: int) -> subprocess.Popen[str]:
    """Start a holder, which inherits the descriptor."""
    return subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), open(directory / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


async def test_a_lease_lasts_as_long_as_its_descriptor(watched: Watched, directory: Path) -> None:
    descriptor = watched.grant()
    (lease,) = watched.leases.all()
    assert (lease.entry_name, lease.release, lease.sender) == (ENTRY, "6.1", ":1.7")
    assert (lease.uid, lease.pid, lease.reason) == (1000, 4321, "tracing")
    assert watched.leases.held(ENTRY) == 1
    assert watched.leases.held_entries() == {ENTRY}
    assert watched.changes == 1
    await another_ended(watched)
    assert watched.leases.held(ENTRY) == 1
    os.close(descriptor)
    await until(lambda: len(watched.leases) == 0)
    assert watched.ended == [lease]
    assert watched.changes == 2
    assert watched.leases.held(ENTRY) == 0
    assert watched.leases.held_entries() == frozenset()
    assert names(directory) == []


async def test_each_lease_counts(watched: Watched) -> None:
    descriptors = [watched.grant() for _ in range(3)] + [watched.grant(entry="other")]
    assert watched.leases.held(ENTRY) == 3
    assert len(watched.leases.all()) == 4
    os.close(descriptors.pop())
    await until(lambda: len(watched.leases) == 3)
    assert watched.leases.held("other") == 0
    for count, descriptor in zip((2, 1, 0), descriptors, strict=True):
        os.close(descriptor)
        await until(functools.partial(holds, watched, count))


async def test_what_the_holder_gets(watched: Watched) -> None:
    descriptor = watched.grant()
    assert not os.get_inheritable(descriptor)
    with pytest.raises(BlockingIOError):
        os.read(descriptor, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(descriptor, b"x")
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    os.close(descriptor)
    await until(lambda: len(watched.leases) == 0)


async def test_an_ended_lease_costs_no_more(watched: Watched) -> None:
    """An error on a write end is a state and not an event: were it still watched, the loop would spin."""
    os.close(watched.grant())
    await until(lambda: len(watched.leases) == 0)
    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.sleep(0.3)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.1


# However the holder ends


async def test_the_holder_is_killed(watched: Watched) -> None:
    descriptor = watched.grant()
    holder = start(["sleep", "60"], descriptor)
    os.close(descriptor)
    await another_ended(watched)
    assert len(watched.leases) == 1
    end(holder)
    await until(lambda: len(watched.leases) == 0)


async def test_a_child_of_the_holder_keeps_the_lease(watched: Watched) -> None:
    descriptor = watched.grant()
    holder = start(["sh", "-c", "sleep 60 & echo $!"], descriptor)
    os.close(descriptor)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    end(holder)
    await another_ended(watched)
    assert len(watched.leases) == 1
    os.kill(child, signal.SIGTERM)
    await until(lambda: len(watched.leases) == 0)


async def test_on_its_way_through_a_socket(watched: Watched) -> None:
    sending, receiving = socket.socketpair()
    descriptor = watched.grant()
    socket.send_fds(sending, [b"x"], [descriptor])
    os.close(descriptor)
    await another_ended(watched)
    assert len(watched.leases) == 1
    sending.close()
    receiving.close()
    await until(lambda: len(watched.leases) == 0)


# Limits


async def test_limits(directory: Path) -> None:
    watched = Watched(directory, max_total=4, max_per_uid=2)
    held = [watched.grant(), watched.grant()]
    with pytest.raises(LimitsExceeded, match="user 1000 holds 2 leases already"):
        watched.grant()
    held += [watched.grant(uid=0), watched.grant(uid=0)]
    with pytest.raises(LimitsExceeded, match="there are 4 leases already"):
        watched.grant(uid=0)
    os.close(held.pop(0))
    await until(lambda: len(watched.leases) == 3)
    held.append(watched.grant())
    for descriptor in held:
        os.close(descriptor)
    await until(lambda: len(watched.leases) == 0)
    assert names(directory) == []
    watched.leases.close()


async def test_no_descriptors_left(watched: Watched, directory: Path) -> None:
    held: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, limits[1]))
    try:
        with pytest.raises(LimitsExceeded, match="can open no more files"):
            held.extend(watched.grant() for _ in range(100))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(names(directory)) == 2 * len(held)
    for descriptor in held:
        os.close(descriptor)
    await until(lambda: len(watched.leases) == 0)


async def test_many(watched: Watched) -> None:
    held = [watched.grant(uid=n % 8, reason="ä" * 256) for n in range(256)]
    assert len(watched.leases.all()) == 256
    for descriptor in held:
        os.close(descriptor)
    await until(lambda: len(watched.leases) == 0)
    assert len(watched.ended) == 256


async def test_full_disk(small_disk: Path) -> None:
    watched = Watched(small_disk / "leases")
    fill(small_disk)
    with pytest.raises(NoSpace, match="cannot make a lease"):
        watched.grant()
    assert len(watched.leases) == 0
    assert names(small_disk / "leases") == []
    watched.leases.close()


async def in_no_entry(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """Leases on trees in place are granted, and seen to end."""
    held = [watched.grant(entry="") for _ in range(3)]
    assert [record.levelname for record in caplog.records] == ["WARNING"], "once"
    assert [lease.reason for lease in watched.leases.all()] == ["tracing"] * 3
    assert all(stat.S_ISFIFO(os.fstat(descriptor).st_mode) for descriptor in held)
    assert not any(os.get_inheritable(descriptor) for descriptor in held)
    for count, descriptor in enumerate(held, 1):
        os.close(descriptor)
        await until(lambda count=count: len(watched.leases) == 3 - count)  # type: ignore[misc]
    assert len(watched.ended) == 3
    watched.leases.close()


async def test_a_full_disk_and_headers_in_no_entry(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(small_disk / "leases")
    fill(small_disk)
    await in_no_entry(watched, caplog)
    assert names(small_disk / "leases") == []


async def test_no_directory_and_headers_in_no_entry(caplog: pytest.LogCaptureFixture) -> None:
    await in_no_entry(Watched(Path("/proc/nothing")), caplog)


async def test_a_directory_that_cannot_be_made() -> None:
    watched = Watched(Path("/proc/nothing"))
    with pytest.raises(DiskError):
        watched.grant()
    assert watched.leases.adopt() == ()


# The directory is removed, the daemon is restarted


async def test_the_directory_is_removed(watched: Watched, directory: Path) -> None:
    first = watched.grant()
    shutil.rmtree(directory)
    assert watched.leases.held(ENTRY) == 1
    second = watched.grant()
    assert watched.leases.held(ENTRY) == 2
    os.close(first)
    os.close(second)
    await until(lambda: len(watched.leases) == 0)


async def test_restart(watched: Watched, directory: Path) -> None:
    living, dead = watched.grant(reason="living"), watched.grant(reason="dead")
    before = [lease for lease in watched.leases.all() if lease.reason == "living"]
    watched.leases.close()
    watched.leases.close()
    os.close(dead)
    after = Watched(directory)
    assert after.leases.adopt() == ()
    assert list(after.leases.all()) == before
    assert after.leases.held(ENTRY) == 1
    assert after.changes == 1
    assert after.leases.adopt() == ()
    assert len(after.leases) == 1, "adopting twice does not count twice"
    os.close(living)
    await until(lambda: len(after.leases) == 0)
    assert after.ended == before
    assert names(directory) == []
    after.leases.close()


CRASHING = """
import asyncio, socket, sys, time
from pathlib import Path
from kheadersd.cache.leases import Leases

async def main():
    leases = Leases(Path(sys.argv[1]))
    peer = socket.socket(fileno=int(sys.argv[2]))
    held = [leases.grant(sys.argv[3], "6.1", ":1.7", 1000, 4321, f"number {n}") for n in range(3)]
    socket.send_fds(peer, [b"x"], held)
    time.sleep(60)

asyncio.run(main())
"""


async def test_the_daemon_is_killed(directory: Path) -> None:
    ours, theirs = socket.socketpair()
    daemon = start(
        [sys.executable, "-c", CRASHING, str(directory), str(theirs.fileno()), ENTRY], theirs.fileno()
    )
    theirs.close()
    _, held, _, _ = socket.recv_fds(ours, 1, 3)
    ours.close()
    assert len(held) == 3
    end(daemon)
    os.close(held.pop())
    after = Watched(directory)
    assert after.leases.adopt() == ()
    assert [lease.reason for lease in after.leases.all()] == ["number 0", "number 1"]
    for descriptor in held:
        os.close(descriptor)
    await until(lambda: len(after.leases) == 0)
    assert names(directory) == []
    after.leases.close()


def make_nonsense(directory: Path) -> list[int]:
    """FIFOs that are held but have no good record; the holders' descriptors."""
    strings = dict.fromkeys(("entry_name", "release", "sender", "reason"), "")
    bad_type = {**strings, "pid": 1, "since": 1, "uid": "0"}
    records = {"none": None, "empty": "", "list": "[]", "keys": "{}", "type": json.dumps(bad_type)}
    holders = []
    directory.mkdir()
    for name, record in records.items():
        os.mkfifo(directory / name)
        holders.append(os.open(directory / name, os.O_RDONLY | os.O_NONBLOCK))
        if record is not None:
            (directory / f"{name}.json").write_text(record)
    (directory / "file").write_text("no FIFO")
    (directory / "link").symlink_to("/etc/passwd")
    (directory / "alone.json").write_text("{}")
    return holders


async def test_adopting_nonsense(directory: Path) -> None:
    holders = make_nonsense(directory)
    watched = Watched(directory)
    problems = watched.leases.adopt()
    assert len(problems) == len(holders) + 2
    assert len(watched.leases) == 0
    assert names(directory) == []
    assert os.access("/etc/passwd", os.R_OK)
    for holder in holders:
        os.close(holder)
    watched.leases.close()


async def test_a_lease_that_cannot_be_told_of_is_given_back(directory: Path) -> None:
    """Whatever fails once there is a descriptor."""

    failures = [RuntimeError()]

    def changed() -> None:
        if failures:
            raise failures.pop()

    leases = Leases(directory, on_change=changed)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(RuntimeError):
        leases.grant(ENTRY, "6.1", ":1.7", 1000, 4321, "")
    await until(lambda: len(leases) == 0)
    assert names(directory) == []
    assert len(os.listdir("/proc/self/fd")) == len(before)
    leases.close()


def put_in_the_way(directory: Path, what: str, elsewhere: Path) -> None:
    (elsewhere / "others").write_text("x")
    if what == "link":
        directory.symlink_to(elsewhere)
    elif what == "file":
        directory.write_text("x")
    else:
        os.mkfifo(directory)


@pytest.mark.parametrize("what", ["link", "file", "FIFO"])
async def test_a_directory_that_is_none(directory: Path, tmp_path: Path, what: str) -> None:
    """Nothing is removed where a link leads."""
    put_in_the_way(directory, what, tmp_path)
    leases = Leases(directory)
    (problem,) = leases.adopt()
    assert str(directory) in problem
    assert not leases.is_leased("any", 1)
    with pytest.raises(DiskError, match="cannot make a lease"):
        leases.grant(ENTRY, "6.1", ":1.7", 1000, 4321, "")
    assert names(tmp_path) == ["others"]
    leases.close()
