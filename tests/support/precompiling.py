"""Real compilers, a real tree, and precompiled headers made as the daemon makes them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from kheadersd.cache.pch_files import PREFIX
from kheadersd.pch import needed_headers as reduction
from kheadersd.pch import profiles
from kheadersd.pch.canary import canary
from kheadersd.pch.compilers import Compiler
from kheadersd.pch.profiles import TYPES, Profile
from kheadersd.pch.recipe import LIBBPF, Recipe, clang_recipe

ARCHITECTURE = "x86"
COMPILERS = ("clang-14", "clang-16", "clang-19")
CORPUS = Path(__file__).parent / "corpus"
SHIPPED = Path(profiles.__file__).parent.parent / "data/profiles"

_SECONDS = 120


def is_there(compiler: str) -> bool:
    return Path("/usr/bin", compiler).exists()


def found(name: str) -> Compiler:
    """A compiler of the distribution, known by its program alone."""
    path = Path("/usr/bin", name).resolve()
    version = _output(path, "--version")
    match = re.search(r"version (([0-9]+)\.[0-9.]+)", version)
    assert match, version
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    resource = Path(_output(path, "-print-resource-dir").strip())
    return Compiler(name, path, match[1], int(match[2]), digest, resource, {}, {})


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS).stdout


class Refused(Exception):
    """The compiler does not accept a program; says what the compiler says."""


class Crashed(Refused):
    """The compiler crashed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Made:
    """A precompiled header of a profile, and a tree that has only what it needs.

    Attributes:
        tree: as it is in an entry of the cache.
        reduced: what may take its place.
        pch: the file.
        canary: a program that has to compile with it.
    """

    compiler: Compiler
    recipe: Recipe
    tree: Path
    reduced: Path
    pch: Path
    canary: str

    def text(self, program: Path, to: Path) -> str:
        """Compile without the precompiled header; what the compiler says. Raises `Refused`."""
        return self._compile(self.recipe.text, program, to)

    def precompiled(self, program: Path, to: Path) -> str:
        """Compile with it; what the compiler says. Raises `Refused`."""
        return self._compile(self.recipe.arguments(self.pch), program, to)

    def _compile(self, arguments: tuple[str, ...], program: Path, to: Path) -> str:
        if not self.recipe.backend:
            return self._run(*arguments, "-c", program, "-o", to)
        middle = to.with_suffix(".bc")
        said = self._run(*arguments, "-c", program, "-o", middle)
        return said + self._run(*self.recipe.backend, middle, "-o", to)

    def _run(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [self.compiler.path, "-fno-crash-diagnostics", *arguments],
            capture_output=True, check=False, text=True,
            timeout=_SECONDS, cwd=CORPUS,
        )  # fmt: skip
        if done.returncode:
            raise (Crashed if "Stack dump:" in done.stderr else Refused)(done.stderr)
        return done.stderr

    def once_more(self, directory: Path) -> bytes:
        """The precompiled header, made in another directory."""
        return subprocess.run(
            [self.compiler.path, *self.recipe.build], input=self.recipe.source, capture_output=True,
            check=True, timeout=_SECONDS, cwd=directory,
        ).stdout  # fmt: skip

    @contextlib.contextmanager
    def without_headers(self) -> Iterator[None]:
        """The tree is the reduced one."""
        aside = self.tree.with_name("aside")
        os.rename(self.tree, aside)
        os.rename(self.reduced, self.tree)
        try:
            yield
        finally:
            os.rename(self.tree, self.reduced)
            os.rename(aside, self.tree)


def make(compiler: Compiler, profile: Profile, tree: Path) -> Made:
    """Precompile a profile, and find out what it needs; all that is written is beside the tree."""
    made = precompile(compiler, profile, tree)
    _reduce(
        tree, made.reduced, needed(compiler, made.recipe, tree, made.pch) if profile.base != TYPES else ()
    )
    return made


def precompile(compiler: Compiler, profile: Profile, tree: Path, arch: str = ARCHITECTURE) -> Made:
    """Precompile a profile; all that is written is beside the tree, and ``reduced`` is not there.

    Raises:
        Refused: the compiler does not do it without a complaint.
    """
    made = clang_recipe(profile, compiler, tree, hashlib.sha256(b"").hexdigest(), arch)
    pch = tree.parent / "pch" / made.key / "headers.pch"
    (pch.parent / "include").mkdir(parents=True)
    (pch.parent / "include/bpf").symlink_to(LIBBPF)
    (pch.parent / PREFIX).write_bytes(made.prefix)
    with open(pch, "wb") as output:
        done = subprocess.run(
            [compiler.path, *made.build], input=made.source, stdout=output, stderr=subprocess.PIPE,
            check=False, timeout=_SECONDS,
        )  # fmt: skip
    if done.returncode or done.stderr:
        raise Refused(done.stderr.decode(errors="replace"))
    return Made(compiler, made, tree, pch.parent / "reduced", pch, canary(profile))


def needed(compiler: Compiler, made: Recipe, tree: Path, pch: Path) -> tuple[str, ...]:
    """The names in the tree that have to stay for a precompiled header."""
    listed = subprocess.run(
        [compiler.path, *reduction.dependencies_arguments(made.text)],
        input=made.source, capture_output=True, check=True, timeout=_SECONDS,
    ).stdout.decode()  # fmt: skip
    names = reduction.dependencies(listed, tree)
    again = subprocess.run(
        [compiler.path, *reduction.again_arguments(made.text, pch)],
        input=reduction.again(names, tree), capture_output=True, check=False, timeout=_SECONDS,
    ).stderr.decode()  # fmt: skip
    return (*reduction.directories(made.text, tree), *reduction.read_again(again, tree))


def _reduce(tree: Path, to: Path, names: tuple[str, ...]) -> None:
    to.mkdir()
    for name in names:
        if (tree / name).is_dir():
            (to / name).mkdir(parents=True, exist_ok=True)
        else:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((tree / name).read_bytes())
