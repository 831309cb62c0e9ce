"""Unmodified tools of bcc's, up to where their programs are compiled: this machine need not have kprobes."""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kheadersd.pch.libbcc import LIBBCC
from tests.bench.measure import Result, children_seconds, cpu_seconds, median, note, paired
from tests.support.bcc import compiled, is_installed, python_tools, tool_command, tool_run
from tests.support.directories import made_for_root
from tests.support.running import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.rig import MeasuredDaemon, Rig
    from tests.support.bcc import ToolRun

_ROUNDS = 5
_COLD_TOOL = "execsnoop"
_LITTLE = 0.9  # what gains less is measured more often
_MADE = 0.1  # seconds of the daemon's CPU; nothing is precompiled in less, and a cached answer takes 1 ms
# A tool, what it includes, and what another one includes.
_SHARED = (
    ("vfsstat", ("uapi/linux/ptrace.h",), ("uapi/linux/ptrace.h", "linux/sched.h", "linux/fs.h")),
    (
        "cpudist",
        ("uapi/linux/ptrace.h", "linux/sched.h"),
        (
            *("uapi/linux/ptrace.h", "linux/sched.h", "linux/nsproxy.h", "linux/pid_namespace.h"),
            "linux/init_task.h",
        ),
    ),
    (
        "execsnoop",
        ("uapi/linux/ptrace.h", "linux/sched.h", "linux/fs.h"),
        ("uapi/linux/ptrace.h", "linux/fs.h", "linux/sched.h", "linux/blk-mq.h", "net/sock.h"),
    ),
)
_QUICK = ("execsnoop", "biosnoop", "syncsnoop", "opensnoop")
_MEDIAN = {"0.26": 0.35}
"""The goal for the median by the version of bcc; 0.30 for those that are newer."""

# Bcc extracts into a /tmp of its own, which is empty at each start, and finds headers nowhere else.
_ALONE = """
mkdir -p /lib/modules && mount -t tmpfs none /lib/modules
mount -t tmpfs none /tmp && mkdir /tmp/kernel && mount --rbind /sys/kernel /tmp/kernel
mount -t tmpfs none /sys/kernel && cp "$0" /sys/kernel/kheaders.tar.xz
if [ -e /tmp/kernel/btf ]; then mkdir /sys/kernel/btf && mount --bind /tmp/kernel/btf /sys/kernel/btf; fi
exec "$@"
"""


def cold(rig: Rig) -> list[Result]:
    """Host with no headers but in the module: from the start of execsnoop to the end of its compilation."""
    if not is_installed():
        note("  bcc, its tools or the clang of its LLVM are not installed")
        return []
    tool = tool_command(_COLD_TOOL)
    alone = ["unshare", "--mount", "sh", "-ec", _ALONE, str(rig.archive), *tool]
    walls: dict[str, list[float]] = {"alone": [], "first": [], "later": [], "precompiled": []}
    for _ in range(rig.rounds(_ROUNDS)):
        with _package() as package, rig.daemon(rig.module_root) as daemon:
            # Bcc's own way leaves out loading and unloading the module: both are in its favour.
            walls["alone"].append(_wall(rig, package, alone))
            walls["first"].append(_wall(rig, package, [*_exec(), *tool]))
            walls["later"].append(_wall(rig, package, [*_exec(), *tool]))
            _wall(rig, package, [*_exec("--precompiled"), *tool])
            walls["precompiled"].append(_wall(rig, package, [*_exec("--precompiled"), *tool]))
            assert len(daemon.entries()) == 1
        note("  " + ", ".join(f"{name} {figures[-1]:.3f} s" for name, figures in walls.items()))
    what = f"{_COLD_TOOL} until it is compiled, kheadersctl exec{{}}, with bcc alone, wall"
    return [
        paired(what.format(", first time"), walls["first"], walls["alone"], goal=1.0),
        paired(what.format(", later"), walls["later"], walls["alone"], goal=0.4),
        paired(what.format(" --precompiled, later"), walls["precompiled"], walls["alone"], goal=0.2),
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class _Measured:
    """CPU seconds of a tool and all that it takes: as text, with precompiled headers, and the first time.

    Attributes:
        first: the compiler included; None if nothing was precompiled for it: it has none, or another's.
        has_none: whether it compiles as without.
    """

    name: str
    text: float
    later: float
    first: float | None
    has_none: bool


def tools(rig: Rig) -> list[Result]:
    """CPU of all of bcc's tools that compile here, kheadersctl and Python and all, with --precompiled."""
    if not is_installed():
        note("  bcc, its tools or the clang of its LLVM are not installed")
        return []
    names = [name for name in python_tools() if not rig.quick or name in _QUICK]
    with _package() as package, rig.daemon() as daemon:
        found = [one for name in names if (one := _measured(rig, package, daemon, name))]
    version = ".".join(LIBBCC.installed().version.split(".")[:2])
    what = f"{len(found)} tools of bcc {version}, exec --precompiled with exec, CPU, median"
    worst = max(found, key=lambda one: one.later / one.text)
    return [
        *_of_all(what, found, goal=_MEDIAN.get(version, 0.3)),
        *_of_all(
            "  of {} that take more than 1 s as text", [one for one in found if one.text > 1], goal=0.28
        ),
        *_of_all(f"  {worst.name}, the worst", [worst], goal=1.05),
        # Some have a small program that is precompiled before the one that is not.
        *_costs([one for one in found if one.has_none and one.first is None]),
        *_first([one for one in found if one.first is not None]),
    ]


def _of_all(what: str, found: list[_Measured], *, goal: float) -> list[Result]:
    if not found:
        return []
    later, text = [one.later for one in found], [one.text for one in found]
    return [paired(what.format(len(found)), later, text, goal=goal)]


def _costs(found: list[_Measured]) -> list[Result]:
    if not found:
        return []
    more = [(one.later - one.text) * 1000 for one in found]
    what = f"  of {len(found)} that have nothing precompiled, more than with exec"
    return [Result(what, median(more), "ms", goal=10)]


def _first(found: list[_Measured]) -> list[Result]:
    if not found:
        return []
    first, text = [one.first or 0.0 for one in found], [one.text for one in found]
    return [paired(f"  of {len(found)}, the first time, headers being precompiled", first, text, goal=1.6)]


def _measured(rig: Rig, package: Path, daemon: MeasuredDaemon, name: str) -> _Measured | None:
    plain = tool_run(package, name, rig.bus)
    if not plain.functions:
        return None
    before = _of_daemon(daemon)
    first = tool_run(package, name, rig.bus, "--precompiled")
    making = _of_daemon(daemon) - before
    again = tool_run(package, name, rig.bus, "--precompiled")
    if again.seconds > _LITTLE * plain.seconds:
        plain, again = _measured_again(rig, package, name)
    measured = _Measured(
        name,
        plain.seconds,
        again.seconds,
        first.seconds + making if making > _MADE else None,
        "kheadersd: " in again.stderr,
    )
    note(f"  {measured}")
    return measured


def sharing(rig: Rig) -> list[Result]:
    """CPU of libbcc with precompiled headers of more than a program includes, with those of exactly that."""
    if not is_installed():
        note("  bcc, its tools or the clang of its LLVM are not installed")
        return []
    results = []
    with rig.daemon() as daemon:
        for tool, exact, wider in _SHARED[: 1 if rig.quick else None]:
            ours: list[float] = []
            theirs: list[float] = []
            for _ in range(rig.rounds(_ROUNDS)):
                for figures, headers in ((ours, wider), (theirs, exact)):
                    figures.append(_compiled(daemon, tool, headers))
            what = f"{tool}: {len(wider)} headers precompiled, with exactly its {len(exact)}, CPU"
            results.append(paired(what, ours, theirs))
    return results


def _compiled(daemon: MeasuredDaemon, tool: str, headers: Sequence[str]) -> float:
    """CPU seconds of libbcc, with these headers precompiled."""
    options = ("headers", "as", str(len(headers)), *headers)
    _, cflags, details = daemon.bus.call("GetPch", "ssa{sv}", "", "bcc-base", "1", *options)
    return compiled(tool, details["source_tree"], cflags).seconds


def _measured_again(rig: Rig, package: Path, name: str) -> tuple[ToolRun, ToolRun]:
    """The medians of several runs."""
    runs = [
        (tool_run(package, name, rig.bus), tool_run(package, name, rig.bus, "--precompiled"))
        for _ in range(rig.rounds(_ROUNDS))
    ]
    plain = sorted((run for run, _ in runs), key=lambda run: run.seconds)
    again = sorted((run for _, run in runs), key=lambda run: run.seconds)
    return plain[len(plain) // 2], again[len(again) // 2]


def _of_daemon(daemon: MeasuredDaemon) -> float:
    """CPU of the daemon and of the compilers that have ended."""
    return cpu_seconds(daemon.pid) + children_seconds(daemon.pid)


@contextlib.contextmanager
def _package() -> Iterator[Path]:
    """Where kheadersd is root's alone, and compiled, as installed."""
    with made_for_root() as directory:
        shutil.copytree(REPOSITORY / "kheadersd", directory / "kheadersd")
        compileall.compile_dir(directory, quiet=1)
        yield directory


def _exec(*options: str) -> list[str]:
    return [sys.executable, "-m", "kheadersd.cli", "exec", *options, "--"]


def _wall(rig: Rig, package: Path, command: Sequence[str]) -> float:
    """Wall time of a command that must succeed, in seconds."""
    begun = time.perf_counter()
    subprocess.run(
        command,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": rig.bus.address},
        cwd=package,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,  # without a time limit: to keep one, subprocess looks every 50 ms
    )
    return time.perf_counter() - begun
