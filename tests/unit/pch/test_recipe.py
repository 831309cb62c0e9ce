"""The key tells apart everything that a precompiled header depends on; the arguments are complete."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from kheadersd.errors import NotAvailable
from kheadersd.pch import needed_headers as reduction
from kheadersd.pch import recipe as recipes
from kheadersd.pch.compilers import Compiler
from kheadersd.pch.profiles import HEADERS, Profile, custom, load
from kheadersd.pch.recipe import Recipe, clang_recipe
from tests.support.precompiling import SHIPPED

_COMPILER = Compiler(
    "clang-16", Path("/usr/bin/clang-16"), "16.0.6", 16, "a" * 64, Path("/usr/lib/clang/16"), {}, {}
)
_PROFILE = Profile(
    "mine", "Mine.", "clang-bpf", HEADERS, ("linux/sched.h", "linux/fs.h"), ("-DA=1", "-DB=2"), Path("/p")
)
_TREE = Path("/var/cache/kheaders/6.1.0-1/tree")
_DIGEST = "d" * 64


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Everything that a recipe is made of, with the parts that are changed below."""

    profile: Profile = _PROFILE
    compiler: Compiler = _COMPILER
    tree: Path = _TREE
    digest: str = _DIGEST
    arch: str = "x86"

    def recipe(self) -> Recipe:
        return clang_recipe(self.profile, self.compiler, self.tree, self.digest, self.arch)


def _with_flags(*flags: str) -> Inputs:
    return Inputs(profile=dataclasses.replace(_PROFILE, flags=flags))


def _with_headers(*headers: str) -> Inputs:
    return Inputs(profile=custom(_PROFILE, headers))


def _with_compiler(**changed: object) -> Inputs:
    return Inputs(compiler=dataclasses.replace(_COMPILER, **changed))  # type: ignore[arg-type]


# What clang takes without a word although the result is wrong, and what it refuses.
_DIFFERENT = {
    "a macro that was not there when it was made": _with_flags("-DA=1", "-DB=2", "-DC=3"),
    "a macro that is missing": _with_flags("-DA=1"),
    "no macro at all": _with_flags(),
    "another value of a macro": _with_flags("-DA=1", "-DB=3"),
    "other flags in the same characters": _with_flags("-DA=1-DB=2"),
    "another order of flags": _with_flags("-DB=2", "-DA=1"),
    "a flag that comes twice": _with_flags("-DA=1", "-DB=2", "-DB=2"),
    "another optimisation": _with_flags("-DA=1", "-DB=2", "-O1"),
    "another language": _with_flags("-DA=1", "-DB=2", "-std=gnu17"),
    "another CPU": _with_flags("-DA=1", "-DB=2", "-mcpu=v3"),
    "content of the same size, another archive": Inputs(digest="e" * 64),
    "another place of the tree": Inputs(tree=Path("/var/cache/kheaders/6.1.0-2/tree")),
    "another patch release of the compiler": _with_compiler(version="16.0.7"),
    "a compiler replaced under its name and version": _with_compiler(digest="b" * 64),
    "another path of the compiler": _with_compiler(path=Path("/usr/local/bin/clang-16")),
    "other headers of the compiler": _with_compiler(resource=Path("/opt/clang/16")),
    "another target": Inputs(profile=dataclasses.replace(_PROFILE, consumer="clang-host")),
    "another architecture": Inputs(arch="arm64"),
    "another order of headers": _with_headers("linux/fs.h", "linux/sched.h"),
    "one header less": _with_headers("linux/sched.h"),
    "one header more": _with_headers("linux/sched.h", "linux/fs.h", "linux/mm.h"),
    "what was types": Inputs(profile=dataclasses.replace(_PROFILE, base="types")),
}


def test_the_key_is_the_same_for_the_same() -> None:
    made = Inputs().recipe()
    assert made == Inputs().recipe()
    assert len(made.key) == 64
    assert int(made.key, 16)
    # A profile that is called or described differently gives the same.
    assert (
        made == Inputs(profile=dataclasses.replace(_PROFILE, name="b", description="", path=Path())).recipe()
    )


@pytest.mark.parametrize("inputs", _DIFFERENT.values(), ids=_DIFFERENT.keys())
def test_the_key_is_another_for(inputs: Inputs) -> None:
    assert inputs.recipe().key != Inputs().recipe().key


def test_all_of_them_differ() -> None:
    keys = [inputs.recipe().key for inputs in (Inputs(), *_DIFFERENT.values())]
    assert len(set(keys)) == len(keys)


_TOLD = (b"#include <a.h>\n", ("-a", "-b"), ("-a",), ())
_DIFFERENTLY = [
    (b"#include <b.h>\n", ("-a", "-b"), ("-a",), ()),
    (b"#include <a.h>\n", ("-b", "-a"), ("-a",), ()),
    (b"#include <a.h>\n", ("-a-b",), ("-a",), ()),
    (b"#include <a.h>\n", ("-a",), ("-b", "-a"), ()),
    (b"#include <a.h>\n", ("-a", "-b"), (), ("-a",)),
    (b"#include <a.h>\n", ("-a", "-b", "-a"), (), ()),
    (b"#include <a.h>\n", ("-a", "-b", ""), ("-a",), ()),
]


def test_every_word_that_the_compiler_is_told_is_in_the_key() -> None:
    keys = {
        recipes.key_of(_PROFILE, _COMPILER, _TREE, _DIGEST, "x86", told) for told in (_TOLD, *_DIFFERENTLY)
    }
    assert len(keys) == 1 + len(_DIFFERENTLY)


def test_a_header_and_a_flag_are_not_confused() -> None:
    one = dataclasses.replace(_PROFILE, headers=("a.h", "b.h"), flags=())
    other = dataclasses.replace(_PROFILE, headers=("a.h",), flags=("b.h",))
    assert Inputs(profile=one).recipe().key != Inputs(profile=other).recipe().key


def test_the_arguments() -> None:
    made = Inputs().recipe()
    pch = _TREE.parent / "pch" / made.key / "headers.pch"
    arguments = made.arguments(pch)
    at = arguments.index("-include-pch")
    assert arguments[at + 1] == str(pch)
    assert arguments[:at] + arguments[at + 2 :] == made.text
    # In kbuild's order.
    searched = [item[2:] for item in made.text if item.startswith("-I")]
    assert searched[0] == f"{_TREE}/arch/x86/include"
    assert searched[2] == f"{_TREE}/include"
    assert len(searched) == 7
    # Nothing of /usr/include but what is beside the precompiled header.
    assert "-nostdinc" in made.text
    assert made.text[-2:] == ("-idirafter", str(pch.parent / "include"))
    assert made.text[-4:-2] == ("-include", str(pch.parent / "prefix.h"))
    assert made.text[made.text.index("-isystem") + 1] == "/usr/lib/clang/16/include"
    # What a profile adds wins.
    assert made.text.index("-DB=2") == len(made.text) - 5
    assert made.source.endswith(b'\n# 1 "<stdin>" 2\n#include <linux/sched.h>\n#include <linux/fs.h>\n')
    assert made.source.startswith(b'# 1 "prefix.h" 1\n' + made.prefix)
    assert made.build[-3:] == ("-o", "-", "-")
    assert made.backend == ()
    assert not any("\n" in item or "\0" in item for item in (*made.build, *made.text))


@pytest.mark.parametrize("consumer", ["clang-bpf", "clang-host"])
def test_no_configuration_file_is_read(consumer: str) -> None:
    """Only the caller's clang may see it. Clang before 16 reads none by itself, and refuses the flag."""
    profile = dataclasses.replace(_PROFILE, consumer=consumer)
    for major, told in ((15, False), (16, True), (19, True)):
        made = Inputs(profile=profile, compiler=dataclasses.replace(_COMPILER, major=major)).recipe()
        assert ("--no-default-config" in made.text) == told
        assert ("--no-default-config" in made.build) == told
        assert "--no-default-config" not in made.backend


@pytest.mark.parametrize("name", ["clang-14", "clang-16", "clang-19"])
def test_clang_takes_the_arguments(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name}")
    found = Path(shutil.which(name) or "").resolve()
    major = int(name.removeprefix("clang-"))
    program, bitcode = tmp_path / "a.c", tmp_path / "a.bc"
    program.touch()
    bitcode.touch()
    compiler = dataclasses.replace(_COMPILER, path=found, major=major, resource=tmp_path)
    for consumer in ("clang-bpf", "clang-host"):
        inputs = Inputs(profile=dataclasses.replace(_PROFILE, consumer=consumer), compiler=compiler)
        made = inputs.recipe()
        runs = [(*made.text, "-c", program), made.build]
        if made.backend:
            runs.append((*made.backend, bitcode))
        for arguments in runs:
            # It says what it would do, and reads nothing.
            command = [name, "-###", "-Werror", *map(str, arguments)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert (done.returncode, "error:" in done.stderr) == (0, False), done.stderr


def test_two_steps() -> None:
    made = Inputs(profile=dataclasses.replace(_PROFILE, consumer="clang-host")).recipe()
    assert "-emit-llvm" in made.text
    assert "--target=x86_64-linux-gnu" in made.text
    assert made.backend[0] == "--target=bpfel"
    assert made.backend[-3:] == ("-c", "-x", "ir")


def test_types() -> None:
    found, _ = load([SHIPPED])
    made = Inputs(profile=found["types"]).recipe()
    assert made.source == b"#include <vmlinux.h>\n"
    assert [item for item in made.text if item.startswith("-I")] == [f"-I{_TREE}"]
    assert "-include" not in made.text
    assert "-D__KERNEL__" not in made.text
    assert reduction.directories(made.text, _TREE) == ()


def test_another_architecture() -> None:
    made = Inputs(arch="arm64").recipe()
    assert {"-D__TARGET_ARCH_arm64", "-D__aarch64__", f"-I{_TREE}/arch/arm64/include"} <= set(made.text)
    assert not any("x86" in item for item in made.text)
    host = Inputs(profile=dataclasses.replace(_PROFILE, consumer="clang-host"), arch="arm64").recipe()
    assert "--target=aarch64-linux-gnu" in host.text
    with pytest.raises(NotAvailable, match=r"the architecture vax cannot be precompiled; .* arm64, x86"):
        Inputs(arch="vax").recipe()


def test_every_shipped_profile_has_a_key_of_its_own() -> None:
    found, _ = load([SHIPPED])
    profiles = [profile for profile in found.values() if profile.consumer != "bcc"]
    keys = {
        Inputs(profile=profile, arch=arch).recipe().key
        for profile, arch in itertools.product(profiles, ("x86", "arm64"))
    }
    assert len(keys) == 2 * len(profiles)
