"""The installed bcc and its own tools, as far as their programs are compiled."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kheadersd.errors import NotAvailable
from kheadersd.pch.libbcc import LIBBCC, InstalledLibbcc
from kheadersd.pch.libbcc_command import LibbccCommand, LibbccCommands
from kheadersd.sandbox.command import Run
from kheadersd.sandbox.confined_child import run_confined
from tests.support.precompiling import ARCHITECTURE, is_there
from tests.support.running import Bus

PYTHON = "/usr/bin/python3"  # the distribution's, which has bcc
_ALONE = 'mount --bind "$0" /mnt && mount -t tmpfs none /tmp && exec "$@"'
_HARNESS = Path(__file__).parent / "bcc_tool.py"
TOOLS = {
    "bcc-small": ("vfsstat",),
    "bcc-base": ("execsnoop",),
    "bcc-sched": ("runqlat",),
    "bcc-fs": ("opensnoop",),
    "bcc-net": ("tcplife", "tcpconnect"),
    "bcc-block": ("biosnoop",),
}


def is_installed() -> bool:
    """Whether there are libbcc, its tools, and the clang of its LLVM."""
    try:
        LIBBCC.installed()
    except NotAvailable:
        return False
    return Path("/usr/sbin/tcplife-bpfcc").exists() and is_there(compiler_name())


def compiler_name() -> str:
    """The compiler that makes what libbcc takes."""
    return f"clang-{command().major}"


@functools.cache
def command(flags: tuple[str, ...] = (), arch: str = ARCHITECTURE) -> LibbccCommand:
    """How the installed libbcc compiles."""
    return ask(LIBBCC, flags, arch)


def ask(
    libraries: InstalledLibbcc, flags: tuple[str, ...] = (), arch: str = ARCHITECTURE, run: Run = run_confined
) -> LibbccCommand:
    """What a libbcc answers that is shown a tree with nothing in it."""
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        tree.chmod(0o755)
        (tree / "include/linux").mkdir(parents=True)
        (tree / "include/linux/kconfig.h").touch()
        return asyncio.run(LibbccCommands(run, libraries).ask(flags, tree, arch))


@dataclasses.dataclass(frozen=True, slots=True)
class Compiled:
    """What came out of a tool: the code of each function, and the CPU seconds that libbcc took."""

    functions: dict[str, str]
    seconds: float


def bcc(tree: str, *command: str | Path, bus: Path = Path("/mnt")) -> str:
    """Run something with bcc; what it says. Never without a tree: it would make one in /tmp.

    Args:
        bus: the directory with the socket of the system bus.
    """
    assert Path(tree, "include/linux/kconfig.h").is_file()
    done = subprocess.run(
        # Whatever it does in /tmp, it does in one of its own.
        ["unshare", "--mount", "sh", "-c", _ALONE, bus, PYTHON, *command],
        env={**os.environ, "BCC_KERNEL_SOURCE": tree, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/mnt/bus"},
        cwd="/", capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def compiled(tool: str, tree: str, cflags: list[str]) -> Compiled:
    # By its text: where the project is in /tmp, that is hidden.
    said = bcc(tree, "-c", _HARNESS.read_text(), f"/usr/sbin/{tool}-bpfcc", *cflags)
    values = json.loads(next(line for line in said.splitlines() if line.startswith('{"')))
    return Compiled(values["functions"], values["seconds"])


_MORE = {
    "argdist": ("-H", "r::vfs_read()"),
    "biolatpcts": ("sda",),
    "dirtop": ("-d", "/"),
    "funccount": ("vfs_*",),
    "funcinterval": ("vfs_read",),
    "funclatency": ("vfs_read",),
    "funcslower": ("vfs_read",),
    "stackcount": ("vfs_read",),
    "trace": ("do_sys_open",),
}
"""Arguments of tools that do nothing without."""


@dataclasses.dataclass(frozen=True, slots=True)
class ToolRun:
    """What a tool of bcc's did.

    Attributes:
        functions: the code of each, in hexadecimal; empty if it did not come so far.
        seconds: of CPU, of the whole process, Python and all.
    """

    status: int
    functions: dict[str, str]
    seconds: float
    stderr: str


def python_tools() -> list[str]:
    """The names of bcc's tools that are programs in Python."""
    tools = sorted(Path("/usr/sbin").glob("*-bpfcc"))
    return [tool.name.removesuffix("-bpfcc") for tool in tools if b"python" in tool.read_bytes()[:64]]


def by_exec(
    package: Path, bus: Bus, options: Sequence[str], command: Sequence[str | Path]
) -> subprocess.CompletedProcess[str]:
    """Run a command by ``kheadersctl exec``.

    Args:
        package: the directory that kheadersd is in, which has to be root's for ``--precompiled``.
    """
    return subprocess.run(
        [sys.executable, "-m", "kheadersd.cli", "exec", *options, "--", *command],
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
        cwd=package,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def tool_command(tool: str) -> list[str]:
    """The command that runs a tool of bcc's as far as its program is compiled."""
    return [PYTHON, "-c", _HARNESS.read_text(), f"/usr/sbin/{tool}-bpfcc", "--", *_MORE.get(tool, ())]


def tool_run(package: Path, tool: str, bus: Bus, *options: str) -> ToolRun:
    """Run a tool of bcc's by ``kheadersctl exec``; the arguments are those of `by_exec`."""
    done = by_exec(package, bus, options, tool_command(tool))
    line = next((line for line in done.stdout.splitlines() if line.startswith('{"seconds')), "")
    values: dict[str, Any] = json.loads(line) if line else {"functions": {}, "process": 0.0}
    return ToolRun(done.returncode, values["functions"], values["process"], done.stderr)
