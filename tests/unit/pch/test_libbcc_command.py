"""The line that libbcc prints is understood to the last word, or refused."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kheadersd.errors import NotAvailable
from kheadersd.pch.bcc_recipe import bcc_recipe
from kheadersd.pch.compilers import Compiler
from kheadersd.pch.libbcc_command import KCONFIG, LibbccCommand, LibbccCommands, parse
from kheadersd.pch.profiles import BCC, HEADERS, Profile
from kheadersd.sandbox.command import Command, Finished
from tests.support.libbcc_lines import ARM64, DIRECTORIES, LIBRARY, LINE, LINES, OWN, InstalledLibrary


def parsed(line: str, arch: str = "x86") -> LibbccCommand:
    return parse(line, LIBRARY, arch)


@pytest.mark.parametrize("llvm", LINES)
def test_what_debians_print(llvm: str) -> None:
    command = parsed(LINES[llvm] + "\n/virtual/main.c:1:2: error: stop\n")
    assert (command.llvm, command.major) == (llvm, int(llvm[:2]))
    assert command.directories == DIRECTORIES
    assert command.first == (KCONFIG,)
    assert command.own == OWN
    assert command.options[:2] == ("-triple", "x86_64-unknown-linux-gnu")
    assert command.options[-1] == "-D__GCC_HAVE_DWARF2_CFI_ASM=1"
    # Neither a place nor what is made; all else, in this order.
    assert not [word for word in command.options if "/virtual" in word or "emit" in word or "tree" in word]
    at = command.options.index('KBUILD_MODNAME="bcc"')
    assert command.options[at - 3 : at] == ("-D", "__KERNEL__", "-D")
    assert ("CONFIG_CC_IS_CLANG" in command.options) == (llvm == "21")


def test_arm64() -> None:
    command = parsed(ARM64, "arm64")
    assert command.directories[0] == "arch/arm64/include"
    at = command.options.index("-target-feature")
    assert command.options[at : at + 4] == ("-target-feature", "+v8a", "-target-abi", "aapcs")


def test_the_tree_makes_no_difference() -> None:
    assert parsed(LINE.replace("/c/tree", "/another/place")) == parsed(LINE)


def test_only_the_first_line_counts() -> None:
    # What follows can be of a header: the compiler prints a line of it beside an error.
    assert parsed(f"note\n{LINE}\n{LINE.replace('-O2', '-O3')}") == parsed(LINE)


_REFUSED: dict[str, Callable[[str], str]] = {
    "'-frobnicate/x'": lambda line: line.replace("-faddrsig", "-frobnicate/x"),
    "'-unheard-of'": lambda line: line.replace("-faddrsig", "-unheard-of"),
    "'word'": lambda line: line.replace("-faddrsig", "-faddrsig word"),
    "''": lambda line: line.replace("-faddrsig", "-faddrsig "),
    "'-fplugin=x.so'": lambda line: line.replace("-faddrsig", "-fplugin=x.so"),
    "'-fmodule-file=x'": lambda line: line.replace("-faddrsig", "-fmodule-file=x"),
    "'-fsanitize-ignorelist=/x'": lambda line: line.replace("-faddrsig", "-fsanitize-ignorelist=/x"),
    "'-Wp,-x'": lambda line: line.replace("-faddrsig", "-Wp,-x"),
    "'-load'": lambda line: line.replace("-faddrsig", "-load x.so"),
    "'-mllvm'": lambda line: line.replace("-faddrsig", "-mllvm -load=x.so"),
    "'-include'": lambda line: line.replace("./include/linux/kconfig.h", "/etc/shadow"),
    "'-include-pch'": lambda line: line.replace("-faddrsig", "-include-pch x"),
    "'-I'": lambda line: line.replace("-I include/uapi", "-I ../include"),
    "'-isystem'": lambda line: line.replace("-isystem /virtual/include ", "-isystem /usr/include "),
    "'-internal-isystem'": lambda line: line.replace("-faddrsig", "-internal-isystem /usr/include"),
    "'-resource-dir'": lambda line: line.replace("lib/clang/19", "lib/gcc"),
    "'-o'": lambda line: line.replace("-o main.bc", "-o /etc/passwd"),
    "'-x'": lambda line: line.replace("-x c ", "-x c++ "),
    "'/virtual/main.c'": lambda line: f"{line} /virtual/main.c",
    "'-D'": lambda line: line.replace("-D __KERNEL__", "-D 1"),
    "'-target-cpu'": lambda line: line.replace("-target-cpu x86-64", "-target-cpu /x"),
    "'-triple'": lambda line: line.replace("-linux-gnu", "-linux/gnu"),
}


@pytest.mark.parametrize("word", _REFUSED)
def test_what_is_not_understood_is_quoted(word: str) -> None:
    with pytest.raises(NotAvailable) as refused:
        parsed(_REFUSED[word](LINE))
    assert f"libbcc 0.31 compiles with {word}" in refused.value.message


def test_a_header_of_its_own_that_is_not_in_the_library() -> None:
    with pytest.raises(NotAvailable, match=r"'-include' .*bcc/new\.h"):
        parsed(LINE.replace("bcc/helpers.h", "bcc/new.h"))


def test_its_own_headers_come_after_the_kernels() -> None:
    line = LINE.replace("-I include/uapi ", "-include ./include/linux/types.h -I include/uapi ")
    with pytest.raises(NotAvailable, match=r"'-include' .*linux/types\.h"):
        parsed(line)


def test_the_line_has_to_be_whole() -> None:
    for cut in (" -resource-dir lib/clang/19", " -include ./include/linux/kconfig.h", " /virtual/main.c"):
        with pytest.raises(NotAvailable, match="compiles without"):
            parsed(LINE.replace(cut, ""))
    for length in range(len("clang -cc1 "), len(LINE)):
        with pytest.raises(NotAvailable):
            parsed(LINE[:length])


def test_for_another_architecture() -> None:
    with pytest.raises(NotAvailable, match="for 'x86_64-unknown-linux-gnu', and the headers are for aarch64"):
        parsed(LINE, "arm64")


def test_nonsense_is_quoted_and_short() -> None:
    with pytest.raises(NotAvailable) as refused:
        parsed("\x1b[2J" + "nonsense " * 10_000)
    assert "does not print how it compiles: '\\x1b[2Jnonsense" in refused.value.message
    assert len(refused.value.message) < 400


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / KCONFIG).parent.mkdir(parents=True)
    (tmp_path / KCONFIG).touch()
    return tmp_path


class Answers:
    """Runs nothing, and remembers what it was to run."""

    def __init__(self, finished: Finished = Finished(0, "", LINE)) -> None:  # noqa: B008 - it is frozen
        self.finished = finished
        self.commands: list[Command] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def __call__(self, command: Command, **_: object) -> Finished:
        self.commands.append(command)
        self.meanwhile()
        return self.finished


def test_it_is_asked_again_when_it_was_replaced(tree: Path) -> None:
    run, library = Answers(), InstalledLibrary()
    commands = LibbccCommands(run, library)

    async def ask(*flags: str) -> LibbccCommand:
        return await commands.ask(flags, tree, "x86")

    async def asked() -> None:
        first, second = await asyncio.gather(ask(), ask())
        assert first is second
        assert await ask("-DX=a b", "-UY") is first  # macros are handed on as they are
        assert len(run.commands) == 1
        await ask("-O3")
        assert run.commands[-1].words[-3:] == (str(LIBRARY.path), "-fms-extensions", "-O3")
        assert run.commands[-1].environment["BCC_KERNEL_SOURCE"] == str(tree)
        library.replace()
        assert await ask() == first
        assert len(run.commands) == 3
        run.meanwhile = library.replace
        with pytest.raises(NotAvailable, match="was replaced while it was asked"):
            await ask("-O1")

    asyncio.run(asked())


def test_no_answer_and_a_tree_that_cannot_be_shown(tree: Path) -> None:
    run = Answers(Finished(1, "", "Traceback\nOSError: \x1bno library"))

    async def ask(where: Path) -> None:
        await LibbccCommands(run, InstalledLibrary()).ask((), where, "x86")

    with pytest.raises(NotAvailable, match=r"does not say how it compiles: 'OSError: \\x1bno library'"):
        asyncio.run(ask(tree))
    with pytest.raises(NotAvailable, match=r"has no include/linux/kconfig\.h"):
        asyncio.run(ask(tree / "include"))
    spaced = tree.parent / "a -fplugin=x"
    spaced.symlink_to(tree)
    with pytest.raises(NotAvailable, match=r"cannot be asked .*a -fplugin=x"):
        asyncio.run(ask(spaced))
    tree.rename(tree.parent / "b -O3")
    (tree.parent / "link").symlink_to(tree.parent / "b -O3")
    with pytest.raises(NotAvailable, match=r"cannot be asked .*b -O3"):
        asyncio.run(ask(tree.parent / "link"))
    assert len(run.commands) == 1


_COMPILER = Compiler(
    "clang-14", Path("/usr/bin/clang-14"), "14.0.6", 14, "a" * 64, Path("/usr/lib/clang/14"), {}, {}
)
_PROFILE = Profile("mine", "Mine.", BCC, HEADERS, ("linux/fs.h",), ("-DA=b c", "-UB", "-O2"), Path("/p"))


def test_the_recipe_has_all_of_the_line() -> None:
    command = parsed(LINES["14.0.6"])

    def recipe(compiler: Compiler = _COMPILER, command: LibbccCommand = command) -> tuple[str, ...]:
        made = bcc_recipe(_PROFILE, compiler, Path("/c/tree"), "0" * 64, "x86", command)
        keys.add(made.key)
        assert made.cflags is not None
        assert "-DA=b c" in made.cflags
        return made.build

    keys: set[str] = set()
    build = recipe()
    assert build[: len(command.options) + 1] == ("-cc1", *command.options)
    assert build[len(command.options) + 1 :][:4] == ("-D", "A=b c", "-U", "B")
    assert [word for word in build if word.startswith("-I")] == [f"-I/c/tree/{name}" for name in DIRECTORIES]
    recipe(command=dataclasses.replace(command, options=(*command.options, "-DNEW")))
    recipe(command=dataclasses.replace(command, library=dataclasses.replace(LIBRARY, digest="e" * 64)))
    recipe(command=dataclasses.replace(command, own=OWN[:2]))
    assert len(keys) == 4
    with pytest.raises(NotAvailable, match=r"accepts nothing from the clang 14\.0\.5"):
        recipe(dataclasses.replace(_COMPILER, version="14.0.5"))
    with pytest.raises(NotAvailable, match="accepts nothing from clang-16; name clang-14"):
        recipe(dataclasses.replace(_COMPILER, name="clang-16", major=16))
