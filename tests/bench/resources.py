"""What the daemon takes by itself: to start, to be idle, to extract."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .measure import MIB, Result, forget_peak, median, note, resident

if TYPE_CHECKING:
    from .rig import Rig

_ROUNDS = 7
_SETTLED = 0.5  # seconds; what goes on behind an answer has ended then


def memory(rig: Rig) -> list[Result]:
    """Resident memory: idle after the start, at most during an extraction, idle again."""
    fresh, peak, idle = [], [], []
    for _ in range(rig.rounds(3)):
        with rig.daemon() as daemon:
            fresh.append(resident(daemon.pid))
            forget_peak(daemon.pid)
            rig.call(daemon.pid)
            peak.append(daemon.memory("VmHWM") / MIB)
            time.sleep(_SETTLED)
            idle.append(resident(daemon.pid))
        note(f"  idle {fresh[-1]:.1f} MiB, peak {peak[-1]:.1f} MiB, idle again {idle[-1]:.1f} MiB")
    return [
        Result("resident, idle after the start", median(fresh), "MiB", goal=30),
        Result("resident, peak during an extraction", median(peak), "MiB", goal=48),
        Result("resident, idle after an extraction", median(idle), "MiB", goal=30),
    ]


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
