"""Clocks, memory, and how results are shown."""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MIB = 1 << 20

Unit = str
"""What follows a figure: "s", "ms", "µs", "MiB", or "" for a plain number."""
_DIGITS = {"s": 3, "ms": 1, "µs": 1, "MiB": 1}


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: the daemon's figure, in ``unit``.
        theirs: what it is compared with, in the same unit; None if with nothing.
        goal: the largest ratio that is wanted, or the largest figure where nothing is compared; None if the
            line is for information.
        ratios: of pairs that were measured one after the other; () where the ratio is that of the figures.
    """

    what: str
    ours: float
    unit: Unit = ""
    theirs: float | None = None
    goal: float | None = None
    ratios: tuple[float, ...] = ()

    @property
    def value(self) -> float:
        """What the goal is for."""
        if self.ratios:
            return median(self.ratios)
        return self.ours if self.theirs is None else self.ours / self.theirs

    @property
    def verdict(self) -> str:
        if self.goal is None:
            return ""
        return "met" if self.value <= self.goal else "missed"

    @property
    def spread(self) -> str:
        """The quarters of the ratios, between which half of them are."""
        if len(self.ratios) < _FEW:
            return ""
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return f"{low:.2f} to {high:.2f}"

    def cells(self) -> tuple[str, ...]:
        """As text: what, ours, theirs, ratio, goal, verdict, spread."""
        ratio = "" if self.theirs is None else f"{self.value:.2f}"
        theirs = "" if self.theirs is None else _figure(self.theirs, self.unit)
        goal = "" if self.goal is None else f"≤ {self.goal:g}" + _space(self.unit if not ratio else "")
        return self.what, _figure(self.ours, self.unit), theirs, ratio, goal, self.verdict, self.spread


def paired(
    what: str, ours: Sequence[float], theirs: Sequence[float], unit: Unit = "s", *, goal: float | None = None
) -> Result:
    """The line for pairs of figures, of which the median of the ratios counts."""
    ratios = tuple(one / other for one, other in zip(ours, theirs, strict=True))
    return Result(what, median(ours), unit, median(theirs), goal, ratios)


def _figure(value: float, unit: Unit) -> str:
    return f"{value:.{_DIGITS.get(unit, 0)}f}" + _space(unit)


def _space(unit: Unit) -> str:
    return f" {unit}" if unit else ""


_FEW = 3  # fewer ratios have no spread
_WIDTHS = (72, 10, 10, 5, 9, 6, 12)  # in characters, so that lines printed apart make one table


def table(results: Sequence[Result]) -> str:
    """The results as text, a line each, below `HEADING`."""
    return "\n".join(_line(result.cells()) for result in results)


def _line(cells: Sequence[str]) -> str:
    what, *figures = cells
    aligned = [figure.rjust(width) for figure, width in zip(figures, _WIDTHS[1:], strict=True)]
    return "  ".join([what.ljust(_WIDTHS[0]), *aligned]).rstrip()


HEADING = _line(("", "kheadersd", "compared", "ratio", "goal", "", "half of them"))


def note(text: str) -> None:
    """Tell what is being done, beside the table."""
    print(text, file=sys.stderr, flush=True)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, with all of its threads, those that have ended too.

    The kernel numbers these clocks so, see clock_getcpuclockid(3) and the macros in its posix-timers.h.
    """
    return time.clock_gettime(~pid << 3 | 2)


def children_seconds(pid: int) -> float:
    """Processor time of the children of a process that have ended, and of theirs; to some 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Resident memory in MiB, counted page by page: what /proc/<pid>/status says lags behind by threads."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024 / MIB
    raise ValueError(f"/proc/{pid}/smaps_rollup has no Rss")


def forget_peak(pid: int) -> None:
    """Let the peak of resident memory begin anew, see proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def run_measured(command: list[str]) -> tuple[float, float]:
    """Run a program to its end.

    Returns:
        Wall time, and the processor time of the program and its children; seconds.
    """
    begun = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - begun
    if status:
        raise RuntimeError(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return wall, usage.ru_utime + usage.ru_stime
