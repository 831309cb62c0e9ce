"""The first call for headers that have to be extracted, against programs that extract the same archive."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.bench.measure import Result, cpu_seconds, median, note, paired, run_measured

if TYPE_CHECKING:
    from tests.bench.rig import MeasuredDaemon, Rig

# Its own import is not measured.
_TARFILE = """
import sys, tarfile, time
begun = time.perf_counter()
with tarfile.open(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2])
print(time.perf_counter() - begun)
"""
_ROUNDS = 7
_PAIRS = 15  # tar itself varies by a tenth
_CALLERS = 1000


def tar(rig: Rig) -> list[Result]:
    """The first GetHeaders of a new daemon, against ``tar -xf``."""
    ours: list[tuple[float, ...]] = []
    theirs: list[tuple[float, ...]] = []
    for _ in range(rig.rounds(_PAIRS)):
        ours.append(_first_call(rig))
        with rig.scratch() as directory:
            theirs.append(run_measured(["tar", "-xf", str(rig.archive), "-C", str(directory)]))
        note(f"  first call {_seconds(ours[-1])}, tar {_seconds(theirs[-1])}")
    walls, cpus, sync_walls, sync_cpus = zip(*ours, strict=True)
    tar_walls, tar_cpus = zip(*theirs, strict=True)
    return [
        paired("first GetHeaders, wall, with tar -xf", walls, tar_walls, goal=1.0),
        paired("first GetHeaders, CPU, with tar -xf and its xz", cpus, tar_cpus, goal=1.1),
        Result("  until it is durable, after the answer, wall", median(sync_walls), "s"),
        Result("  until it is durable, after the answer, CPU", median(sync_cpus), "s"),
    ]


def tarfile(rig: Rig) -> list[Result]:
    """The first GetHeaders of a new daemon, against tarfile.extractall."""
    ours = []
    theirs = []
    for _ in range(rig.rounds(3)):
        ours.append(_first_call(rig)[0])
        with rig.scratch() as directory:
            command = [sys.executable, "-W", "ignore", "-c", _TARFILE, str(rig.archive), str(directory)]
            theirs.append(float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
        note(f"  first call {ours[-1]:.3f} s, tarfile {theirs[-1]:.3f} s")
    return [
        Result(
            "first GetHeaders, wall, with tarfile.extractall", median(ours), "s", median(theirs), goal=0.35
        )
    ]


def callers(rig: Rig) -> list[Result]:
    """A thousand callers at once for headers that have to be extracted, against one caller."""
    alone = []
    together = []
    cpu = []
    extractions = []
    for _ in range(rig.rounds(_ROUNDS)):
        with rig.daemon() as daemon:
            alone.append(rig.call(daemon.pid).wall)
        with rig.daemon() as daemon:
            calls = rig.call(daemon.pid, connections=_CALLERS, calls=_CALLERS)
        together.append(calls.wall)
        cpu.append(calls.cpu)
        extractions.append(calls.added)
        note(f"  one caller {alone[-1]:.3f} s, {_CALLERS} callers {calls.wall:.3f} s")
    return [
        Result(f"{_CALLERS} callers at once: extractions", max(extractions), goal=1),
        Result(
            f"{_CALLERS} callers at once: until the last answer, with one caller",
            median(together),
            "s",
            median(alone),
            goal=2.0,
        ),
        Result(f"{_CALLERS} callers at once: CPU", median(cpu), "s"),
    ]


def _first_call(rig: Rig) -> tuple[float, float, float, float]:
    """Wall and processor time of the call, then of what follows until the entry is durable; seconds."""
    with rig.daemon() as daemon:
        call = rig.call(daemon.pid)
        answered = time.perf_counter()
        cpu = cpu_seconds(daemon.pid)
        _wait_until_durable(daemon)
        return call.wall, call.cpu, time.perf_counter() - answered, cpu_seconds(daemon.pid) - cpu


def _wait_until_durable(daemon: MeasuredDaemon) -> None:
    (entry,) = daemon.entries()
    mark = daemon.cache / entry / "durable"
    while not mark.exists():
        time.sleep(0.001)


def _seconds(times: tuple[float, ...]) -> str:
    return f"{times[0]:.3f} s, CPU {times[1]:.3f} s"
