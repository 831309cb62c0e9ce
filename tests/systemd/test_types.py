"""bpftool in kheaders-compile@.service: the sandbox that is made for compilers lets it do its work."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.vmlinux.bpftool import PLACES
from tests.support.container import Container, running
from tests.support.package import package

pytestmark = pytest.mark.slow

SHOWN = Path("/sys/kernel/btf/vmlinux")
BPFTOOL = Path(PLACES[0], "bpftool")

# Run as the daemon's user, as the daemon does it.
_MAKE = """
import asyncio, hashlib, os, sys, tempfile
from pathlib import Path
from kheadersd.sandbox.runners import compiler_runner
from kheadersd.sandbox.unit_client import UnitClient
from kheadersd.vmlinux import bpftool, generate
from kheadersd.vmlinux.btf_finder import Btf

async def main():
    run = compiler_runner()
    assert isinstance(run, UnitClient), run
    tool = await bpftool.find_bpftool(run)
    with tempfile.TemporaryFile() as out:
        btf = Btf(Path("/srv/btf").read_bytes(), "", "/srv/btf", "", "")
        size = await generate.make(btf, tool, run, out.fileno())
        return tool.version, hashlib.sha256(os.pread(out.fileno(), size, 0)).hexdigest()

print(*asyncio.run(main()))
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """One with the project, this machine's bpftool, and its kernel's BTF."""
    directory = tmp_path_factory.mktemp("machine")
    copy = directory / "btf"
    copy.write_bytes(SHOWN.read_bytes())
    binds = {str(path): path for path in (BPFTOOL, *_libraries())}
    with running("types", directory, {"/srv/btf": copy, **binds}) as container:
        container.install(package())
        container.do("systemctl", "start", "kheaders-compile.socket")
        yield container


def _libraries() -> set[Path]:
    listed = subprocess.run(["ldd", str(BPFTOOL)], check=True, capture_output=True, text=True).stdout
    paths = {Path("/usr", line.split()[2].lstrip("/")) for line in listed.splitlines() if "=>" in line}
    return {path for path in paths if path.exists() and "libc.so" not in path.name}


@pytest.mark.skipif(not SHOWN.exists() or not BPFTOOL.exists(), reason="no BTF or no bpftool here")
def test_vmlinux_h(machine: Container) -> None:
    version, digest = machine.do("python3", "-c", _MAKE, user="kheadersd", timeout=100).split()
    assert version[0].isdigit()
    command = [str(BPFTOOL), "btf", "dump", "file", str(SHOWN), "format", "c"]
    expected = subprocess.run(command, check=True, capture_output=True).stdout
    assert digest == hashlib.sha256(expected).hexdigest()
    assert machine.do("systemctl", "--failed", "--no-legend") == ""
