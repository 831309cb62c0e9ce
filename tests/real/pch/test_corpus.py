"""Programs in the spirit of the usual tracing tools: precompiled headers change nothing but the time."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kheadersd.pch.profiles import TYPES, load
from kheadersd.pch.recipe import LIBBPF
from tests.support import precompiling as making
from tests.support.kheaders import RealHeaders
from tests.support.objects import contents, types

pytestmark = pytest.mark.slow

_PROFILES, _ = load([making.SHIPPED])
_BTF = Path("/sys/kernel/btf/vmlinux")


def _cases() -> Iterator[object]:
    for program in sorted(making.CORPUS.glob("*.c")):
        first, _, _ = program.read_text().partition("\n")
        match = re.search(r"Profiles: ([a-z, -]+)\.", first)
        assert match, first
        for profile in match[1].split(", "):
            yield pytest.param(program, profile, id=f"{program.stem}-{profile}")


Make = Callable[[str, str], making.Made]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def tree(directory: Path, real_headers: RealHeaders) -> Path:
    tree = directory / "headers/tree"
    tree.mkdir(parents=True)
    subprocess.run(["tar", "-C", tree, "-xJf", real_headers.archive], check=True, timeout=120)
    return tree


@pytest.fixture(scope="module")
def types_tree(directory: Path) -> Path:
    bpftool = shutil.which("bpftool", path="/usr/sbin:/usr/bin")
    if bpftool is None or not _BTF.exists():
        pytest.skip("there is no bpftool, or the kernel tells no types")
    tree = directory / "types/tree"
    tree.mkdir(parents=True)
    with open(tree / "vmlinux.h", "wb") as output:
        command = [bpftool, "btf", "dump", "file", str(_BTF), "format", "c"]
        subprocess.run(command, stdout=output, check=True, timeout=120)
    return tree


@pytest.fixture(scope="module")
def make(request: pytest.FixtureRequest) -> Make:
    """Precompiles each profile once for each compiler."""
    compilers, all_made = {}, {}

    def make(compiler: str, profile: str) -> making.Made:
        if not making.is_there(compiler):
            pytest.skip(f"{compiler} is not installed")
        if compiler not in compilers:
            compilers[compiler] = making.found(compiler)
        if (compiler, profile) not in all_made:
            known = _PROFILES[profile]
            tree = request.getfixturevalue("types_tree" if known.base == TYPES else "tree")
            all_made[compiler, profile] = making.make(compilers[compiler], known, tree)
        return all_made[compiler, profile]

    return make


@pytest.mark.parametrize(("program", "profile"), list(_cases()))
@pytest.mark.parametrize("compiler", making.COMPILERS)
def test_a_program_is_the_same(
    compiler: str, program: Path, profile: str, make: Make, tmp_path: Path
) -> None:
    if "<bpf/" in program.read_text() and not LIBBPF.is_dir():
        pytest.skip("libbpf's headers are not installed")
    made = make(compiler, profile)
    text, precompiled, reduced = (tmp_path / name for name in ("text.o", "precompiled.o", "reduced.o"))
    try:
        assert made.text(program, text) == ""
    except making.Crashed:
        # Clang 19 does, on headers of newer kernels; see kheadersd/cli/cc.py.
        assert made.compiler.major == 19
        assert made.precompiled(program, precompiled) == ""
        pytest.skip("this clang crashes without a precompiled header")
    expected = contents(text)
    assert {".maps", ".BTF.ext", "license"} <= set(expected)

    assert made.precompiled(program, precompiled) == ""
    assert contents(precompiled) == expected
    assert types(text) <= types(precompiled)

    # A header that was not precompiled is not there when the headers have gone.
    if program.stem != "oom":
        with made.without_headers():
            assert made.precompiled(program, reduced) == ""
        assert contents(reduced) == expected
        assert types(text) <= types(reduced)


@pytest.mark.parametrize("compiler", making.COMPILERS)
def test_types_are_those_of_the_host(compiler: str, make: Make, tmp_path: Path) -> None:
    """Headers that are read for BPF give the layouts that they give when they are read for the host."""
    for_bpf, for_host = tmp_path / "bpf.o", tmp_path / "host.o"
    program = making.CORPUS / "tcplife.c"
    assert make(compiler, "bpf-tracing").precompiled(program, for_bpf) == ""
    assert make(compiler, "host-tracing").precompiled(program, for_host) == ""
    # The one type that each target has of its own.
    assert _layouts(for_bpf) == _layouts(for_host)


def _layouts(path: Path) -> set[str]:
    return {told for told in types(path) if re.match(r"[45] '[a-z]", told) and "__va_list_tag" not in told}


_ASSEMBLY = """
#include <linux/bpf.h>
#include <linux/sched.h>

__attribute__((section("raw_tracepoint/sched_switch"), used)) int host(void *context)
{
	%s;
}
"""


# The compiler, and no assembly, reads what is relative to a segment register.
_SEGMENTS = "#define CONFIG_USE_X86_SEG_SUPPORT 1"


@pytest.mark.parametrize("compiler", making.COMPILERS)
@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        # What reads a register of the host's, and what fences its memory.
        ("return current->pid", "error: "),
        ("cpu_relax(); return 0", "assembly of the host"),
        # What is assembly of BPF in the program itself.
        ('asm volatile("r1 = 0" : : : "r1"); barrier(); return 0', ""),
    ],
    ids=["current", "cpu_relax", "own"],
)
def test_assembly_of_the_host_is_refused(
    compiler: str, statement: str, problem: str, make: Make, tmp_path: Path
) -> None:
    made = make(compiler, "bpf-core")
    if "current" in statement and _SEGMENTS in (made.tree / "include/generated/autoconf.h").read_text():
        pytest.skip("this kernel's current is no assembly")
    program = tmp_path / "program.c"
    program.write_text(_ASSEMBLY % statement)
    if problem:
        with pytest.raises(making.Refused, match=problem):
            made.precompiled(program, tmp_path / "program.o")
    else:
        assert made.precompiled(program, tmp_path / "program.o") == ""


@pytest.mark.parametrize("compiler", making.COMPILERS)
def test_it_is_the_same_wherever_and_whenever_it_is_made(compiler: str, make: Make, tmp_path: Path) -> None:
    made = make(compiler, "bpf-core")
    assert made.once_more(tmp_path) == made.pch.read_bytes()


@pytest.mark.parametrize("profile", ["bpf-core", "bpf-tracing", "host-tracing", "types"])
@pytest.mark.parametrize("compiler", making.COMPILERS)
def test_the_canary_lives_without_headers(compiler: str, profile: str, make: Make, tmp_path: Path) -> None:
    made = make(compiler, profile)
    program = tmp_path / "canary.c"
    program.write_text(made.canary)
    assert made.precompiled(program, tmp_path / "canary.o") == ""
    with made.without_headers():
        assert made.precompiled(program, tmp_path / "canary.o") == ""
    files = [path for path in made.reduced.rglob("*") if path.is_file()]
    assert len(files) < 60
    assert sum(path.stat().st_size for path in files) < 1 << 19
