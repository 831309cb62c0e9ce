"""All of bcc's own tools, unmodified, by 'kheadersctl exec --precompiled': the same code for less CPU."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from kheadersd.pch.libbcc import LIBBCC
from tests.support.bcc import PYTHON, ToolRun, bcc, by_exec, is_installed, python_tools, tool_run
from tests.support.running import REPOSITORY, Bus, Daemon
from tests.support.tables import PrintTable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="needs libbpfcc, bpfcc-tools, and the clang of its LLVM"),
]

NOTHING = "the program includes no kernel header before all else"
FALLBACKS: dict[str, dict[str, str]] = {
    "0.26": {"compactsnoop": NOTHING},
    "0.31": {"compactsnoop": NOTHING},
    "0.37": {"compactsnoop": NOTHING},
}
"""The tools that compile as without, and why, by the version of bcc: Debian 12's, 13's and sid's."""

# What a program of a user's own does, as the README tells.
LINE = re.search(r"^```python\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.MULTILINE | re.DOTALL)

CHANGING = {"capable", "trace"}
"""Tools whose code is another each time: its own process is in the text."""

_REASON = re.compile(r"^kheadersd: \S+ compiles without precompiled headers: (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """A tool that compiles, as it is and with precompiled headers."""

    tool: str
    text: ToolRun
    precompiled: ToolRun

    @property
    def reason(self) -> str:
        """Why it has fallen back; "" if it has not."""
        return next(iter(_REASON.findall(self.precompiled.stderr)), "")

    @property
    def ratio(self) -> float:
        return self.precompiled.seconds / self.text.seconds

    def line(self) -> str:
        seconds = f"{self.text.seconds:6.3f} s {self.precompiled.seconds:6.3f} s {self.ratio:5.2f}"
        return f"{self.tool:16} {seconds}  {self.reason or 'precompiled'}"


def lines(found: Sequence[Compared]) -> list[str]:
    """The table: CPU of the whole process, Python and all, without precompiled headers and with them."""
    took = [compared.ratio for compared in found if not compared.reason]
    median = f"; median {statistics.median(took):.2f}" if took else ""
    summary = f"{len(took)} of {len(found)} took the precompiled header{median}"
    return [*(compared.line() for compared in found), summary]


@pytest.mark.timeout(3600)
def test_unmodified_tools(bus: Bus, real_daemon: Daemon, package: Path, print_table: PrintTable) -> None:
    def compare(tool: str) -> Compared | None:
        text = tool_run(package, tool, bus)
        return Compared(tool, text, tool_run(package, tool, bus, "--precompiled")) if text.functions else None

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = [compared for compared in pool.map(compare, python_tools()) if compared is not None]
    version = LIBBCC.installed().version
    print_table(f"CPU of bcc {version}'s tools, as they are and with precompiled headers", lines(found))
    assert [one.tool for one in found if one.text.status != one.precompiled.status] == []
    changed = {one.tool for one in found if one.text.functions != one.precompiled.functions}
    assert changed - CHANGING == set()
    fallen_back = {one.tool: one.reason for one in found if one.reason}
    assert fallen_back.items() <= FALLBACKS[".".join(version.split(".")[:2])].items()
    assert len(fallen_back) <= 0.1 * len(found)
    assert len(found) >= 60


@pytest.mark.timeout(300)
def test_the_headers_can_be_gone(bus: Bus, real_daemon: Daemon, package: Path) -> None:
    text = tool_run(package, "execsnoop", bus)
    assert tool_run(package, "execsnoop", bus, "--precompiled").functions == text.functions
    bus.call("GetPch", "ssa{sv}", "", "bcc-small", "1", "keep_headers", "b", "false")
    precompiled = tool_run(package, "execsnoop", bus, "--precompiled")
    assert (precompiled.functions, precompiled.stderr) == (text.functions, "")
    # As opensnoop begins: what is not there yet brings them back for itself alone.
    empty = by_exec(package, bus, ("--precompiled",), (PYTHON, "-c", "from bcc import BPF; BPF(text='')"))
    assert (empty.returncode, empty.stderr) == (0, "")
    assert [entry["headers_kept"] for entry in bus.call("ListEntries")[0]] == [False]


ENDING = {
    "a stack that is too large": "char b[700]; bpf_probe_read(&b, sizeof b, c); return b[5];",
    "a signed division": "long a; bpf_probe_read(&a, sizeof a, c); return a / (a - 7);",
}
"""What LLVM ends the process for."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("code", ENDING.values(), ids=ENDING)
def test_what_ends_the_process(bus: Bus, real_daemon: Daemon, package: Path, code: str) -> None:
    program = f"""
from bcc import BPF
BPF(text='#include <uapi/linux/ptrace.h>\\nint f(void *c) {{ {code} }}')
"""
    text = by_exec(package, bus, (), (PYTHON, "-c", program))
    precompiled = by_exec(package, bus, ("--precompiled",), (PYTHON, "-c", program))
    assert text.returncode != 0
    assert precompiled.returncode == text.returncode
    said, as_text = (re.sub("0x[0-9a-f]+|![0-9]+", "", run.stderr) for run in (precompiled, text))
    assert said == as_text != ""


@pytest.mark.timeout(300)
def test_a_libbcc_of_the_tool(
    bus: Bus, real_daemon: Daemon, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, or behind LD_LIBRARY_PATH: if it is the same, it takes the precompiled header."""
    text = tool_run(package, "execsnoop", bus)
    copy = tmp_path / "libbcc.so.0"
    shutil.copy(LIBBCC.installed().path, copy)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    precompiled = tool_run(package, "execsnoop", bus, "--precompiled")
    assert (precompiled.functions, precompiled.stderr) == (text.functions, "")
    with open(copy, "ab") as library:
        library.write(b"another one")
    other = tool_run(package, "execsnoop", bus, "--precompiled")
    assert other.functions == text.functions
    assert "they are made for another libbcc than this program has loaded" in other.stderr


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
    reason = "its Python ignores PYTHONPATH (option -I, -E or -S)"
    assert done.stderr == f"kheadersctl: {name} compiles without precompiled headers: {reason}\n"
