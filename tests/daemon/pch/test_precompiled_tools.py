"""All of bcc's own tools, unmodified, by 'kheadersctl exec --precompiled': the same code for less CPU."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bcc import ToolRun, bcc, is_installed, python_tools, tool_run
from tests.support.running import REPOSITORY, Bus, Daemon

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="needs libbpfcc, bpfcc-tools, and the clang of its LLVM"),
]

NOTHING = "the program includes no kernel header before all else"
FALLBACKS = dict.fromkeys(("biopattern", "compactsnoop", "opensnoop", "ppchcalls", "syncsnoop"), NOTHING)
"""The tools that compile as without, and why: syncsnoop of Debian 12, and the others of Debian 13, too."""

# What a program of a user's own does, as the README tells.
LINE = re.search(r"^```python\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)

CHANGING = {"capable", "trace"}
"""Tools whose code is another each time: its own process is in the text."""

_REASON = re.compile(r"^kheadersd: \S+ compiles without precompiled headers: (.*)$", re.MULTILINE)


@pytest.fixture
def package(roots_own: Path) -> Path:
    """Where kheadersd is root's alone, as installed, wherever the checkout is."""
    shutil.copytree(REPOSITORY / "kheadersd", roots_own / "kheadersd")
    return roots_own


@pytest.mark.timeout(1200)
def test_unmodified_tools(bus: Bus, real_daemon: Daemon, package: Path) -> None:
    def both(tool: str) -> tuple[ToolRun, ToolRun] | None:
        text = tool_run(package, tool, bus)
        return (text, tool_run(package, tool, bus, "--precompiled")) if text.functions else None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(zip(tools := python_tools(), pool.map(both, tools), strict=True))
    compiling = {tool: runs for tool, runs in found.items() if runs is not None}
    assert len(compiling) >= 60
    results = {tool: (text.status, precompiled.status) for tool, (text, precompiled) in compiling.items()}
    assert {tool: both for tool, both in results.items() if both[0] != both[1]} == {}
    other = {
        tool for tool, (text, precompiled) in compiling.items() if text.functions != precompiled.functions
    }
    assert other - CHANGING == set()
    reasons = {tool: _REASON.findall(precompiled.stderr) for tool, (_, precompiled) in compiling.items()}
    fallen_back = {tool: given[0] for tool, given in reasons.items() if given}
    assert fallen_back.items() <= FALLBACKS.items()


@pytest.mark.timeout(300)
def test_the_headers_can_be_gone(bus: Bus, real_daemon: Daemon, package: Path) -> None:
    text = tool_run(package, "execsnoop", bus)
    assert tool_run(package, "execsnoop", bus, "--precompiled").functions == text.functions
    bus.call("GetPch", "ssa{sv}", "", "bcc-small", "1", "keep_headers", "b", "false")
    precompiled = tool_run(package, "execsnoop", bus, "--precompiled")
    assert (precompiled.functions, precompiled.stderr) == (text.functions, "")
    assert [entry["headers_kept"] for entry in bus.call("ListEntries")[0]] == [False]


@pytest.mark.timeout(300)
def test_bcc_of_ours(bus: Bus, real_daemon: Daemon) -> None:
    tree = bus.call("GetHeaders", "sa{sv}", "", "0")[0]
    program = """
text = "#include <linux/sched.h>\\nint f(void *c) { return sizeof(struct task_struct); }"
print(BPF(text=text).dump_func("f").hex())
"""
    assert LINE is not None
    path = f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
    bus_directory = bus.socket.parent
    ours = bcc(tree, "-c", f"{path}{LINE[1]}{program}", bus=bus_directory)
    assert ours == bcc(tree, "-c", f"from bcc import BPF{program}")
    assert [entry["pch_count"] for entry in bus.call("ListEntries")[0]] == [1]


def test_a_python_that_ignores_the_environment(bus: Bus, real_daemon: Daemon) -> None:
    command = [sys.executable, "-m", "kheadersd.cli", "exec", "--precompiled", "--", sys.executable, "-I"]
    done = subprocess.run(
        [*command, "-c", "import os; print(os.environ.get('PYTHONPATH'))"],
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{REPOSITORY}\n"
    name = os.path.basename(sys.executable)
    reason = "its Python ignores PYTHONPATH (option -I or -E)"
    assert done.stderr == f"kheadersctl: {name} compiles without precompiled headers: {reason}\n"
