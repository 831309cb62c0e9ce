"""What the daemon takes by itself: to start, to be idle, to extract."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from tests.bench.measure import MIB, Result, forget_peak, median, note, resident

if TYPE_CHECKING:
    from tests.bench.rig import MeasuredDaemon, Rig

_ROUNDS = 7
_AGAIN = 4
_SETTLED = 0.5  # seconds; what goes on behind an answer has ended then


def memory(rig: Rig) -> list[Result]:
    """Resident memory: idle after the start, at most during an extraction, idle again."""
    fresh, peak, idle, peak_again, idle_again = [], [], [], [], []
    for _ in range(rig.rounds(3)):
        with rig.daemon() as daemon:
            fresh.append(resident(daemon.pid))
            forget_peak(daemon.pid)
            _extract(rig, daemon)
            peak.append(daemon.memory("VmHWM") / MIB)
            idle.append(resident(daemon.pid))
            for _ in range(_AGAIN):
                # Whoever removes an entry has it made again.
                shutil.rmtree(daemon.cache / daemon.entries()[0])
                _extract(rig, daemon)
            peak_again.append(daemon.memory("VmHWM") / MIB)
            idle_again.append(resident(daemon.pid))
        note(f"  idle {fresh[-1]:.1f} MiB, peak {peak[-1]:.1f} MiB, idle again {idle[-1]:.1f} MiB")
    return [
        Result("resident, idle after the start", median(fresh), "MiB", goal=30),
        Result("resident, peak during the first extraction", median(peak), "MiB", goal=48),
        Result("resident, idle after it", median(idle), "MiB", goal=30),
        Result(f"resident, peak during {_AGAIN} more", median(peak_again), "MiB", goal=48),
        Result("resident, idle after them", median(idle_again), "MiB", goal=30),
    ]


def _extract(rig: Rig, daemon: MeasuredDaemon) -> None:
    if rig.call(daemon.pid).added != 1:
        raise RuntimeError("nothing was extracted")
    time.sleep(_SETTLED)


def start(rig: Rig) -> list[Result]:
    """From the start of the process to READY=1."""
    wall, cpu = [], []
    for _ in range(rig.rounds(_ROUNDS)):
        with rig.daemon() as daemon:
            wall.append(daemon.ready_wall)
            cpu.append(daemon.ready_cpu)
    return [
        Result("start to ready, CPU", median(cpu), "s", goal=0.4),
        Result("start to ready, wall", median(wall), "s"),
    ]
