"""Precompiled headers: programs compiled with and without, making them, and what is left on the disk."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kheadersd.vmlinux.btf_finder import RUNNING_BTF
from tests.bench.measure import MIB, Result, median, note, run_measured
from tests.support.bcc import TOOLS, compiled, is_installed
from tests.support.precompiling import COMPILERS, CORPUS, is_there

if TYPE_CHECKING:
    from tests.bench.rig import MeasuredDaemon, Rig

_ROUNDS = 3
_HEAVY_TOOLS = ("tcplife", "biosnoop", "execsnoop")
# Those that are made of headers, and compiled in one step.
_PROFILES = ("bpf-core", "bpf-tracing")
_TYPES = "types"
# How much longer than an empty file a program with all of BTF and CO-RE may take.
_WITH_AN_EMPTY_FILE = {"clang-14": 4.5, "clang-16": 3.7, "clang-19": 3.2}


def corpus(rig: Rig) -> list[Result]:
    """CPU to compile each program of the corpus with its profile, against its text."""
    results: list[Result] = []
    with rig.daemon() as daemon, rig.scratch() as directory:
        for compiler in _compilers(rig):
            arguments = {name: _get_pch(daemon, name, compiler)[1] for name in _PROFILES}
            measured = []
            without_debug = []
            for program, profile in _programs(rig):
                try:
                    ours, theirs = _compare(rig, compiler, arguments[profile], program, directory)
                except _Crashed as error:
                    note(f"  {program.stem} is left out: {error}")
                    continue
                measured.append((ours / theirs, program.stem, ours, theirs))
                note(f"  {compiler} {program.stem}: {theirs:.3f} s, {ours:.3f} s")
                if not _is_relocatable(program):
                    plain, _ = _compare(rig, compiler, [*arguments[profile], "-g0"], program, directory)
                    without_debug.append(plain)
                    note(f"  {compiler} {program.stem} with -g0: {plain:.3f} s")
            if not measured or not without_debug:
                continue
            measured.sort()
            (_, typical, ours, theirs), (_, heaviest, least, most) = (
                measured[len(measured) // 2],
                measured[0],
            )
            plain, empty = median(without_debug), _empty(rig, compiler, directory)
            results += [
                Result(f"{compiler}: {typical}, the median, with its text", ours, "s", theirs, goal=1 / 5),
                Result(f"{compiler}: {heaviest}, the best, with its text", least, "s", most, goal=1 / 9),
                Result(
                    f"{compiler}: median, all of BTF, with an empty file",
                    median([ours for _, _, ours, _ in measured]),
                    "s",
                    empty,
                    goal=_WITH_AN_EMPTY_FILE.get(compiler),
                ),
                Result(f"{compiler}: median with -g0, with an empty file", plain, "s", empty, goal=2),
            ]
    return results


def bcc(rig: Rig) -> list[Result]:
    """CPU that libbcc takes to compile its own tools, against their text."""
    if not is_installed():
        note("  bcc, its tools or the clang of its LLVM are not installed, or of no known version")
        return []
    results = []
    with rig.daemon() as daemon:
        for profile, tools in TOOLS.items():
            answer = daemon.bus.call("GetPch", "ssa{sv}", "", profile, "0")
            _, cflags, details = answer
            for tool in tools:
                ours: list[float] = []
                theirs: list[float] = []
                for _ in range(rig.rounds(_ROUNDS)):
                    ours.append(compiled(tool, details["source_tree"], cflags).seconds)
                    theirs.append(compiled(tool, details["source_tree"], []).seconds)
                goal = 1 / 2.5 if tool in _HEAVY_TOOLS else 1.0
                results.append(
                    Result(f"bcc's {tool} with {profile}", median(ours), "s", median(theirs), goal)
                )
    return results


def making(rig: Rig) -> list[Result]:
    """CPU to make a precompiled header, against compiling its headers once as text."""
    results = []
    with rig.daemon() as daemon, rig.scratch() as directory:
        for compiler in _compilers(rig):
            for profile in (*_PROFILES, *_types(rig)):
                _, arguments, details = _get_pch(daemon, profile, compiler)
                headers = directory / f"{profile}.c"
                headers.write_text("".join(f"#include <{name}>\n" for name in details["headers"]))
                text = _without_pch(arguments)
                make = [*text, "-Xclang", "-fmodules-embed-all-files", "-Xclang", "-fno-pch-timestamp"]
                ours: list[float] = []
                theirs: list[float] = []
                out = str(directory / "out")
                try:
                    for _ in range(rig.rounds(_ROUNDS)):
                        ours.append(_cpu(compiler, *make, "-x", "c-header", str(headers), "-o", out))
                        theirs.append(_cpu(compiler, *text, "-c", str(headers), "-o", out))
                except _Crashed as error:
                    note(f"  {profile} is left out: {error}")
                    continue
                what = f"{compiler}: making {profile}, with its headers as text"
                results.append(Result(what, median(ours), "s", median(theirs), goal=1.5))
    return results


def _types(rig: Rig) -> list[str]:
    """The profile of the kernel's types, where this machine's kernel tells them."""
    if (rig.root / RUNNING_BTF).exists():
        return [_TYPES]
    note("  types are left out: this kernel has no BTF")
    return []


def left(rig: Rig) -> list[Result]:
    """What is left on the disk of headers that have gone."""
    compilers = _compilers(rig)
    if not compilers:
        return []
    with rig.daemon() as daemon:
        path, _, details = _get_pch(daemon, "bpf-tracing", compilers[-1], "keep_headers", "b", "false")
        tree = int(subprocess.check_output(["du", "-s", "--block-size=1", details["source_tree"]]).split()[0])
        return [
            Result("left of the headers beside bpf-tracing's", tree / MIB, "MiB", goal=1),
            Result("bpf-tracing itself", Path(path).stat().st_size / MIB, "MiB"),
        ]


def _get_pch(
    daemon: MeasuredDaemon, profile: str, compiler: str, *options: str
) -> tuple[str, list[str], dict[str, Any]]:
    count = str(1 + len(options) // 3)
    answer = daemon.bus.call("GetPch", "ssa{sv}", "", profile, count, "compiler", "s", compiler, *options)
    if not isinstance(answer, list):
        raise RuntimeError(f"GetPch: {json.dumps(str(answer))}")
    path, arguments, details = answer
    return path, arguments, details


def _compilers(rig: Rig) -> list[str]:
    """Those that are installed; in a quick run the newest of them."""
    there = [compiler for compiler in COMPILERS if is_there(compiler)]
    return there[-1:] if rig.quick else there


def _programs(rig: Rig) -> list[tuple[Path, str]]:
    """What can be compiled in one step with headers, and its profile; in a quick run, one of each kind."""
    found = []
    for program in sorted(CORPUS.glob("*.c")):
        match = re.search(r"Profiles: ([a-z-]+)", program.read_text())
        if match and match[1] in _PROFILES:
            found.append((program, match[1]))
    if not rig.quick:
        return found
    kinds = {(profile, _is_relocatable(program)): (program, profile) for program, profile in found}
    return list(kinds.values())


def _is_relocatable(program: Path) -> bool:
    """Whether it has CO-RE relocations: clang makes them with debug information only."""
    return "bpf_core_read.h" in program.read_text()


def _compare(
    rig: Rig, compiler: str, arguments: list[str], program: Path, directory: Path
) -> tuple[float, float]:
    """CPU seconds with the precompiled header, and as text."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rig.rounds(_ROUNDS)):
        for figures, vector in ((ours, arguments), (theirs, _without_pch(arguments))):
            figures.append(_cpu(compiler, *vector, "-c", str(program), "-o", str(directory / "out.o")))
    return median(ours), median(theirs)


def _empty(rig: Rig, compiler: str, directory: Path) -> float:
    empty = directory / "empty.c"
    empty.touch()
    command = (compiler, "--target=bpf", "-O2", "-c", str(empty), "-o", str(directory / "out.o"))
    return median([_cpu(*command) for _ in range(rig.rounds(_ROUNDS))])


def _without_pch(arguments: list[str]) -> list[str]:
    at = arguments.index("-include-pch")
    return arguments[:at] + arguments[at + 2 :]


class _Crashed(Exception):
    """A compiler did: clang 19 does on the headers of newer kernels, unless they are precompiled."""


def _cpu(*command: str) -> float:
    command = (*command, "-fno-crash-diagnostics")
    try:
        return run_measured(list(command))[1]
    except RuntimeError:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        if "PLEASE submit a bug report" not in said:
            raise
        raise _Crashed(f"{command[0]} crashes") from None
