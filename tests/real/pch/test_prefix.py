"""The prefix header: assembly of the host in every spelling, and what only the kernel's Makefiles define."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.cache.pch_files import PREFIX
from kheadersd.pch.profiles import load
from kheadersd.pch.recipe import clang_recipe
from tests.support import precompiling as making

_PROFILES, _ = load([making.SHIPPED])
_KEYWORDS = ("asm", "__asm", "__asm__")
_QUALIFIERS = {
    "volatile": ("volatile", "__volatile", "__volatile__"),
    "inline": ("inline", "__inline", "__inline__"),
    "goto": ("goto",),
}
# As <linux/compiler_types.h> has it: the words that are left for assembly are the others.
_REDEFINED = """
#define inline inline __attribute__((__gnu_inline__)) __attribute__((__unused__))
#define __inline__ inline
"""


def _statements() -> Iterator[str]:
    """Every keyword with every set of qualifiers, in every order and spelling, up to the operands."""
    for keyword in _KEYWORDS:
        for count in range(len(_QUALIFIERS) + 1):
            for chosen in itertools.permutations(_QUALIFIERS, count):
                for spelled in itertools.product(*(_QUALIFIERS[name] for name in chosen)):
                    yield " ".join((keyword, *spelled))


STATEMENTS = list(_statements())


def _function(number: int, words: str) -> str:
    """One that only a compiler for x86 accepts."""
    if "goto" in words:
        body = f'{words} ("jmp %l[there]" : : "a" (value) : "eax" : there); there: return value;'
    else:
        body = f'int result; {words} ("mov %1, %0" : "=a" (result) : "d" (value) : "eax"); return result;'
    return f"static __attribute__((always_inline)) int host_{number}(int value) {{ {body} }}\n"


def _without_redefined(statements: list[str]) -> list[str]:
    return [words for words in statements if {"inline", "__inline__"}.isdisjoint(words.split())]


class Tree:
    """A tree of one header, and a prefix header beside it as it is beside a precompiled one."""

    def __init__(self, top: Path, *, arch: str = "x86", configuration: str = "", types: str = "") -> None:
        self.path = top / "tree"
        self.arch = arch
        self._include = self.path / "include/linux"
        self._include.mkdir(parents=True)
        (self._include / "kconfig.h").write_text(configuration)
        (self._include / "compiler_types.h").write_text(types)

    def write(self, text: str) -> None:
        (self._include / "header.h").write_text(f"#ifndef HEADER_H\n#define HEADER_H\n{text}#endif\n")

    def compiled(
        self, compiler: str, program: str, *arguments: str, profile: str = "bpf-core"
    ) -> subprocess.CompletedProcess[str]:
        """A run of the compiler with the complete arguments of a profile, for a program on stdin."""
        made = clang_recipe(
            _PROFILES[profile], making.found(compiler), self.path, "", self.arch, self.path.parent
        )
        (self.path.parent / PREFIX).write_bytes(made.prefix)
        return subprocess.run(
            [compiler, *made.text, *arguments, "-Werror", "-x", "c", "-"],
            input=program, capture_output=True, check=False, text=True, timeout=60,
        )  # fmt: skip


@pytest.fixture(params=making.COMPILERS)
def compiler(request: pytest.FixtureRequest) -> str:
    if not making.is_there(request.param):
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.parametrize("redefined", [False, True], ids=["plain", "redefined"])
def test_headers_compile_with_assembly_in_every_spelling(
    compiler: str, redefined: bool, tmp_path: Path
) -> None:
    tree = Tree(tmp_path, types=_REDEFINED if redefined else "")
    statements = _without_redefined(STATEMENTS) if redefined else STATEMENTS
    tree.write("".join(itertools.starmap(_function, enumerate(statements))))
    program = "#include <linux/header.h>\n"
    done = tree.compiled(compiler, program, "-fsyntax-only", "-Wno-unused-function")
    assert (done.returncode, done.stderr) == (0, "")


def test_no_function_with_assembly_of_the_host_can_be_called(compiler: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write("".join(itertools.starmap(_function, enumerate(STATEMENTS))))
    calls = "".join(
        f"int call_{number}(int value) {{ return host_{number}(value); }}\n"
        for number in range(len(STATEMENTS))
    )
    done = tree.compiled(
        compiler, "#include <linux/header.h>\n" + calls, "-c", "-o", "/dev/null", "-ferror-limit=0"
    )
    plain = sum(words in _KEYWORDS for words in STATEMENTS)
    assert done.returncode
    refusals = done.stderr.count("assembly of the host: this function cannot be used in BPF")
    assert refusals >= len(STATEMENTS) - plain
    assert done.stderr.count("error:") >= len(STATEMENTS)


def test_a_register_may_be_named_in_every_spelling(compiler: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.write(
        "".join(
            f'register unsigned long sp_{number} {word}("rsp");\n' for number, word in enumerate(_KEYWORDS)
        )
    )
    done = tree.compiled(compiler, "#include <linux/header.h>\n", "-fsyntax-only")
    assert (done.returncode, done.stderr) == (0, "")


def test_assembly_in_the_program_itself_is_as_it_was_written(compiler: str, tmp_path: Path) -> None:
    tree = Tree(tmp_path, types=_REDEFINED)
    tree.write('#define own(value) asm volatile("" : "+r"(value))\n')
    statements = [f'{words} ("r1 = %0" : : "r"(value))' for words in _without_redefined(STATEMENTS)]
    program = "#include <linux/header.h>\n" + "".join(
        f"{statement};\n" for statement in (*statements, "own(x)")
    )
    done = tree.compiled(compiler, program, "-E", "-P")
    assert (done.returncode, done.stderr) == (0, "")
    expected = [*statements, 'asm volatile ("" : "+r"(x))']
    assert [_squeezed(line) for line in done.stdout.splitlines() if line] == [
        _squeezed(f"{statement};") for statement in expected
    ]


def _squeezed(line: str) -> str:
    return line.replace(" ", "")


@pytest.mark.parametrize(
    ("arch", "configuration", "expected"),
    [
        ("arm64", "CONFIG_ARM64 CONFIG_KASAN CONFIG_KASAN_GENERIC", "3"),
        ("arm64", "CONFIG_ARM64 CONFIG_KASAN CONFIG_KASAN_SW_TAGS", "4"),
        ("arm64", "CONFIG_ARM64 CONFIG_KASAN CONFIG_KASAN_HW_TAGS", "KASAN_SHADOW_SCALE_SHIFT"),
        ("arm64", "CONFIG_ARM64", "KASAN_SHADOW_SCALE_SHIFT"),
        # <asm/kasan.h> defines it.
        ("x86", "CONFIG_X86 CONFIG_KASAN CONFIG_KASAN_GENERIC", "KASAN_SHADOW_SCALE_SHIFT"),
    ],
)
@pytest.mark.parametrize("profile", ["bpf-core", "host-tracing"])
def test_what_only_makefiles_define(
    compiler: str, profile: str, arch: str, configuration: str, expected: str, tmp_path: Path
) -> None:
    tree = Tree(
        tmp_path, arch=arch, configuration="".join(f"#define {name} 1\n" for name in configuration.split())
    )
    program = "KASAN_SHADOW_SCALE_SHIFT KBUILD_BASENAME KBUILD_MODFILE\n"
    done = tree.compiled(compiler, program, "-E", "-P", profile=profile)
    assert done.stdout.split() == [expected, '"bpf"', '"bpf"'], done.stderr
