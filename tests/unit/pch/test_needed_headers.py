"""What of a tree a precompiled header still needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kheadersd.errors import CompileFailed
from kheadersd.pch import needed_headers
from kheadersd.pch.compiler_run import CompilerRun
from kheadersd.sandbox.command import Command, Finished
from tests.support.pch_rig import EVERY_USER, Caller, Rig

_TREE = Path("/var/cache/kheaders/6.1.0-1/tree")

_DEPENDENCIES: dict[str, Callable[[Path], str]] = {
    "one a line": lambda tree: f"x: {tree}/include/a.h \\\n  {tree}/include/b.h\n",
    "in any order": lambda tree: f"x: {tree}/include/b.h {tree}/include/a.h {tree}/include/b.h\n",
    "by a detour": lambda tree: f"x: {tree}/include/x/../b.h {tree}/./include//a.h\n",
    "others too": lambda tree: (
        f"x: <stdin> /usr/a.h {tree}2/include/c.h {tree}/include/a.h {tree}/include/b.h"
    ),
}


@pytest.mark.parametrize("output", _DEPENDENCIES.values(), ids=_DEPENDENCIES.keys())
def test_dependencies(output: Callable[[Path], str]) -> None:
    assert needed_headers.dependencies(output(_TREE), _TREE) == ("include/a.h", "include/b.h")


def test_names_that_make_would_not_understand() -> None:
    tree = Path("/a b/$c#d")
    assert needed_headers.dependencies("x: /a\\ b/$$c\\#d/e\\ f.h \\\n /a\\ b/$$c\\#d/g.h\n", tree) == (
        "e f.h",
        "g.h",
    )


def test_no_dependencies() -> None:
    assert needed_headers.dependencies("", _TREE) == ()
    assert needed_headers.dependencies("x:\n", _TREE) == ()


def test_what_is_read_again() -> None:
    said = (
        f". {_TREE}/include/b.h\n.. {_TREE}/include/c.h\nIn file included from {_TREE}/include/d.h:1:\n"
        f". {_TREE}/include/a.h\n. /usr/include/e.h\n{_TREE}/include/f.h:1:1: error: . no\n"
    )
    assert needed_headers.read_again(said, _TREE) == ("include/a.h", "include/b.h")
    assert needed_headers.again(("include/a.h",), _TREE) == f'#include "{_TREE}/include/a.h"\n'.encode()


def test_directories_that_are_there(tmp_path: Path) -> None:
    for name in ("include/uapi", "arch/x86", "lib"):
        (tmp_path / name).mkdir(parents=True)
    text = ["-I" + str(tmp_path / name) for name in ("include", "arch/x86", "gone", "", "include")]
    text += ["-isystem", "/usr/include", "-isystem", str(tmp_path / "lib")]
    assert needed_headers.directories(text, tmp_path) == ("include", "arch/x86", "lib")


def test_what_comes_before_each_program(tmp_path: Path) -> None:
    (tmp_path / "a.h").touch()
    text = ["-include", "./a.h", "-include", str(tmp_path / "gone.h"), "-include", "/usr/include/b.h"]
    assert needed_headers.included_first(text, tmp_path) == ("a.h",)


class Compiler:
    """A `Run` that gives these answers, in this order."""

    def __init__(self, *answers: Finished) -> None:
        self._answers = list(answers)
        self.programs: list[bytes] = []

    async def __call__(self, command: Command) -> Finished:
        self.programs.append(command.stdin)
        return self._answers.pop(0)


async def test_what_is_needed(rig: Rig) -> None:
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    tree = served.entry.path
    listed = Finished(0, f"x: {tree}/include/a.h {tree}/include/b.h", "")
    # The second run fails: what has no include guard is often not meant to be included by itself.
    compiler = Compiler(listed, Finished(1, "", f". {tree}/include/b.h"))
    names = await needed_headers.find_needed(CompilerRun(compiler, None), served.pch, served.entry)
    assert compiler.programs[1].decode().splitlines() == [
        f'#include "{tree}/include/a.h"',
        f'#include "{tree}/include/b.h"',
    ]
    assert names[0] == "include/b.h"
    assert "include/a.h" not in names
    assert {"include/generated/autoconf.h", "include/linux/kconfig.h", "include"} < set(names)


async def test_a_compiler_that_does_not_tell(rig: Rig) -> None:
    served = await rig.provider.get(rig.request(), Caller(*EVERY_USER))
    run = CompilerRun(Compiler(Finished(1, "", "error: no")), None)
    with pytest.raises(CompileFailed, match=r"does not list what the headers of .* include: error: no"):
        await needed_headers.find_needed(run, served.pch, served.entry)
