"""Real headers of Debian's kernels with every clang: profiles compile, structures are as the kernel has them.

The kernels are the newest of bookworm (6.1), trixie (6.12) and sid (7.x), for amd64, arm64 and amd64 with
PREEMPT_RT; the compilers are those of this machine, and sid's own in a root. Without sid, what is about it is
skipped; everything else has to be there. For each kernel:

- with every clang: the widest profile for BPF and for the host compiles without a word, and gives the same
  sizes, alignments and offsets of some hundred structures and all that is within.
- with one clang, another one for each kernel: every program of the corpus with each of its profiles, and the
  debug configurations for which headers need what only the kernel's Makefiles define. For trixie and sid, the
  sizes and offsets are compared with those in the kernel's own BTF (linux-bpf-dev has none for RT).
- with the libbcc of this machine: the profiles for bcc are made, or libbcc is said to be too old for a kernel
  of a newer suite than its own.

Left out, for time: the corpus with the other clangs (test_corpus.py has all of them, with 6.1) and, but for
sid-amd64, with sid's; for RT all profiles for bcc but one; RT on arm64, cloud kernels, other architectures.
Some 90 MB come from the network, once, and sid's root.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from kheadersd.host.architecture import of_debian_port
from kheadersd.pch.bcc_recipe import bcc_recipe, lacking_names
from kheadersd.pch.compilers import Compiler
from kheadersd.pch.profiles import BCC, TYPES, load
from kheadersd.pch.recipe import LIBBPF
from kheadersd.sources.build_tree import AUTOCONF
from tests.support import bcc as with_bcc
from tests.support import debian, other_host
from tests.support import precompiling as making
from tests.support.objects import types

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_PROFILES, _ = load([making.SHIPPED])
_LAYOUTS = Path(__file__).parent / "layouts.c"
_SUITES = ("bookworm", "trixie", "sid")  # the oldest first
_SERIES = {"bookworm": r"6\.1\.0-[0-9]+", "trixie": r"6\.12\.[0-9]+\+deb13", "sid": r"[0-9]+\.[0-9.]+\+deb14"}
_KINDS = {"": ("amd64", "amd64"), "arm64": ("arm64", "arm64"), "rt": ("rt-amd64", "amd64")}
_INSTALLED = [name for name in making.COMPILERS if making.is_there(name)]
_MEMORY = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One of Debian's kernels.

    Attributes:
        number: of all that are tested.
        suite: Debian's.
        flavour: the end of the package's name.
        port: Debian's name of the architecture.
    """

    number: int
    suite: str
    flavour: str
    port: str

    def __str__(self) -> str:
        return f"{self.suite}-{self.flavour}"

    @property
    def arch(self) -> str:
        return of_debian_port(self.port) or self.port

    @property
    def has_types(self) -> bool:
        return self.suite != "bookworm" and not self.flavour.startswith("rt")

    @property
    def compiler(self) -> Compiler:
        """The one that compiles what is not compiled with all of them."""
        if not _INSTALLED:
            pytest.skip("no clang of a known version is installed")
        return making.found(_INSTALLED[self.number % len(_INSTALLED)])


KERNELS = [
    Kernel(number, suite, flavour, port)
    for number, (suite, (flavour, port)) in enumerate(itertools.product(_SUITES, _KINDS.values()))
]


class Unpacked:
    """A kernel's headers in one tree, and what was precompiled from them."""

    def __init__(self, kernel: Kernel, directory: Path) -> None:
        self.kernel = kernel
        self.tree = directory / "headers/tree"
        self.types_tree = directory / "types/tree"
        self._made: dict[tuple[Path, str, Path], making.Made] = {}

    def made(self, compiler: Compiler, profile: str, tree: Path | None = None) -> making.Made:
        """The precompiled header of a profile, made once."""
        known = _PROFILES[profile]
        tree = tree or (self.types_tree if known.base == TYPES else self.tree)
        key = compiler.path, profile, tree
        if key not in self._made:
            self._made[key] = making.precompile(compiler, known, tree, self.kernel.arch)
        return self._made[key]


def _fetched(kernel: Kernel, pattern: str, *, common: bool = False) -> list[Path]:
    """The file of a package, and with ``common`` of the part that it shares with other architectures."""
    try:
        name = debian.newest(kernel.suite, pattern, kernel.port)
        files = [debian.download(kernel.suite, name, kernel.port)]
        if common:
            other = debian.depends(kernel.suite, name, r"linux-headers-\S+-common(-rt)?", kernel.port)
            files.append(debian.download(kernel.suite, other, kernel.port))
    except debian.CannotGet as error:
        if kernel.suite != "sid":
            raise
        pytest.skip(f"sid cannot be had: {error}")
    return files


def _unpack(package: Path, patterns: Sequence[str], strip: int, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    archive = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    wanted = ["--wildcards", "--no-wildcards-match-slash", "--no-anchored", *patterns]
    extract = ["tar", "-C", str(to), "-x", f"--strip-components={strip}", "--keep-directory-symlink", *wanted]
    done = subprocess.run(extract, stdin=archive.stdout, capture_output=True, text=True, check=False)
    assert archive.stdout is not None
    archive.stdout.close()
    assert archive.wait() == 0
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", params=KERNELS, ids=str)
def kernel(request: pytest.FixtureRequest) -> Iterator[Unpacked]:
    """One kernel after the other, each unpacked in memory for as long as it is tested."""
    known: Kernel = request.param
    pattern = f"linux-headers-{_SERIES[known.suite]}-{known.flavour}"
    build, source = _fetched(known, pattern, common=True)
    with tempfile.TemporaryDirectory(prefix="kh-matrix-", dir=_MEMORY) as name:
        unpacked = Unpacked(known, Path(name))
        # What the kernel's build has generated wins.
        for package in (source, build):
            names = (f"./usr/src/*/{part}" for part in ("include", f"arch/{known.arch}/include"))
            _unpack(package, [*names], 4, unpacked.tree)
        if known.has_types:
            (package,) = _fetched(known, "linux-bpf-dev")
            _unpack(package, ["vmlinux.h"], 6, unpacked.types_tree)
        yield unpacked


@pytest.fixture(scope="module")
def sids_compiler() -> Iterator[Compiler]:
    """The clang of sid, run by its own loader with its own libraries."""
    try:
        root = other_host.root("sid", debian.architecture(), ["clang"])
    except debian.CannotGet as error:
        pytest.skip(f"sid cannot be had: {error}")
    (clang,) = root.glob("usr/lib/llvm-*/bin/clang")
    (resource,) = clang.parent.parent.glob("lib/clang/[0-9]*")
    (loader,) = root.glob("usr/lib*/ld-linux-*.so.*")
    libraries = f"{next(root.glob('usr/lib/*-linux-gnu'))}:{clang.parent.parent}/lib"
    with tempfile.TemporaryDirectory(prefix="kh-matrix-") as directory:
        script = Path(directory, "clang")
        command = f'"{loader}" --library-path "{libraries}" "{clang}" -resource-dir "{resource}" "$@"'
        script.write_text(f"#!/bin/sh\nexec {command}\n")
        script.chmod(0o755)
        yield making.found(str(script))


def _check_layouts(kernel: Unpacked, compiler: Compiler, to: Path, tree: Path | None = None) -> None:
    """Read for BPF, headers give the layouts that they give when they are read for the host."""
    found = []
    for profile in ("bpf-tracing", "host-tracing"):
        assert kernel.made(compiler, profile, tree).precompiled(_LAYOUTS, to / f"{profile}.o") == ""
        found.append({told for told in types(to / f"{profile}.o") if not _is_of_target(told)})
    assert len(found[0]) > 500
    assert found[0] == found[1]


def _is_of_target(told: str) -> bool:
    """Whether a type is each target's own: whether char has a sign, and how arguments are passed on."""
    return told.startswith("1 'char' ") or "__va_list" in told


@pytest.mark.parametrize("name", making.COMPILERS)
def test_profiles_compile_and_structures_are_the_same(kernel: Unpacked, name: str, tmp_path: Path) -> None:
    if not making.is_there(name):
        pytest.skip(f"{name} is not installed")
    _check_layouts(kernel, making.found(name), tmp_path)


def test_sids_compiler(kernel: Unpacked, sids_compiler: Compiler, tmp_path: Path) -> None:
    _check_layouts(kernel, sids_compiler, tmp_path)
    if str(kernel.kernel) == "sid-amd64":
        _check_corpus(kernel, sids_compiler, tmp_path)


def _programs(known: Kernel) -> Iterator[tuple[Path, str]]:
    for program in sorted(making.CORPUS.glob("*.c")):
        match = re.search(r"Profiles: ([a-z, -]+)\.", program.read_text())
        assert match, program
        for profile in match[1].split(", "):
            if _PROFILES[profile].base != TYPES or known.has_types:
                yield program, profile


def _check_corpus(kernel: Unpacked, compiler: Compiler, to: Path) -> None:
    failed = {}
    for program, profile in _programs(kernel.kernel):
        try:
            if said := kernel.made(compiler, profile).precompiled(program, to / "program.o"):
                failed[program.stem, profile] = said
        except making.Refused as refused:
            failed[program.stem, profile] = str(refused)
    assert not failed, "\n".join(f"{name}: {said[:1000]}" for name, said in failed.items())


def test_the_corpus_compiles_and_structures_are_those_of_btf(kernel: Unpacked, tmp_path: Path) -> None:
    assert LIBBPF.is_dir(), "libbpf's headers are not installed"
    compiler = kernel.kernel.compiler
    _check_corpus(kernel, compiler, tmp_path)
    if not kernel.kernel.has_types:
        return
    headers, btf = (
        _structures_of(kernel.made(compiler, profile), tmp_path) for profile in ("bpf-tracing", "types")
    )
    common = headers.keys() & btf.keys()
    assert {name: headers[name] for name in common} == {name: btf[name] for name in common}
    assert len(common) > 150


def _structures_of(made: making.Made, to: Path) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    """Size and members with offsets, by name, of all structures but that of alignments, unknown to BTF."""
    assert made.precompiled(_LAYOUTS, to / "layouts.o") == ""
    found = {}
    for told in types(to / "layouts.o"):
        match = re.fullmatch(r"4 '(\w+)' [01] ([0-9]+): (.*)", told)
        if match and match[1] != "alignments":
            members = (member.split(" ") for member in match[3].split("; ") if member)
            found[match[1]] = match[2], tuple((words[0], words[-1]) for words in members)
    return found


_OF_MAKEFILES = {
    "arm64": ("KASAN KASAN_GENERIC KASAN_OUTLINE", "KASAN KASAN_SW_TAGS KASAN_OUTLINE"),
    "x86": ("KASAN KASAN_GENERIC KASAN_INLINE",),
}


def test_debug_configurations(kernel: Unpacked, tmp_path: Path) -> None:
    for number, configuration in enumerate(_OF_MAKEFILES[kernel.kernel.arch]):
        tree = kernel.tree.parent.parent / f"debug{number}/tree"
        shutil.copytree(kernel.tree, tree, symlinks=True, copy_function=_link)
        autoconf = tree / AUTOCONF
        text = autoconf.read_text()
        autoconf.unlink()
        symbols = "".join(f"#define CONFIG_{name} 1\n" for name in configuration.split())
        autoconf.write_text(f"{text}{symbols}#define CONFIG_KASAN_SHADOW_OFFSET 0xdfff800000000000\n")
        _check_layouts(kernel, kernel.kernel.compiler, tmp_path, tree)
        shutil.rmtree(tree)


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


_BCC = [profile for profile in _PROFILES.values() if profile.consumer == BCC]


@pytest.mark.skipif(
    not with_bcc.is_installed(), reason="needs libbpfcc, bpfcc-tools, and the clang of its LLVM"
)
def test_profiles_for_bcc(kernel: Unpacked) -> None:
    compiler = making.found(with_bcc.compiler_name())
    newer = _SUITES.index(kernel.kernel.suite) > _SUITES.index(debian.suite())
    # The widest one has all that RT changes.
    profiles = [_PROFILES["bcc-net"]] if kernel.kernel.flavour.startswith("rt") else _BCC
    for profile in profiles:
        command = with_bcc.command(arch=kernel.kernel.arch)
        made = bcc_recipe(profile, compiler, kernel.tree, "0" * 64, kernel.kernel.arch, command)
        done = subprocess.run(
            [compiler.path, *made.build], input=made.source, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, check=False, timeout=120,
        )  # fmt: skip
        said = done.stderr.decode(errors="replace")
        if done.returncode:
            assert newer, said
            assert lacking_names(said, kernel.tree)[1], said
