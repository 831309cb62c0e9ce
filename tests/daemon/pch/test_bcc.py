"""Bcc's own tools, compiled by the installed bcc with precompiled headers, and without."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from kheadersd.errors import NotAvailable
from kheadersd.pch import profiles
from kheadersd.pch.bcc_recipe import bcc_recipe
from kheadersd.pch.libbcc import LIBBCC, InstalledLibbcc
from kheadersd.pch.profiles import Profile
from kheadersd.pch.recipe import Recipe
from tests.support.bcc import TOOLS, Compiled, ask, bcc, command, compiled, compiler_name, is_installed
from tests.support.precompiling import ARCHITECTURE, SHIPPED, found
from tests.support.running import Bus, Daemon

pytestmark = pytest.mark.skipif(
    not is_installed(), reason="needs libbpfcc, bpfcc-tools, and the clang of its LLVM"
)

TEXT = """
#include <uapi/linux/ptrace.h>
#include <linux/sched.h>
#include <linux/version.h>

int on_exit(struct pt_regs *ctx)
{
    struct task_struct *task = (struct task_struct *)bpf_get_current_task();
    return task->exit_code + (LINUX_VERSION_CODE > 0);
}
"""


def get_pch(bus: Bus, profile: str, *options: str) -> Any:
    return bus.call("GetPch", "ssa{sv}", "", profile, *(options or ("0",)))


@pytest.fixture
def profile() -> Profile:
    shipped, problems = profiles.load([SHIPPED])
    assert not problems
    return shipped["bcc-base"]


@pytest.fixture
def copied(roots_own: Path) -> Path:
    """The installed libbcc, as one that can be changed."""
    name = "libbcc.so.0.99.0"
    (roots_own / name).write_bytes(LIBBCC.installed().path.read_bytes())
    (roots_own / "libbcc.so.0").symlink_to(name)
    return roots_own / "libbcc.so.0"


def recipe(profile: Profile, tree: Path, copied: Path) -> Recipe:
    """For the library at that path."""
    asked = ask(InstalledLibbcc([copied]))
    return bcc_recipe(profile, found(compiler_name()), tree, "0" * 64, ARCHITECTURE, asked)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_code_of_tools_is_the_same(bus: Bus, real_daemon: Daemon) -> None:
    answers = {profile: get_pch(bus, profile) for profile in TOOLS}
    tools = {tool: profile for profile, names in TOOLS.items() for tool in names}

    def both(tool: str) -> tuple[Compiled, Compiled]:
        _, cflags, details = answers[tools[tool]]
        tree = details["source_tree"]
        return compiled(tool, tree, []), compiled(tool, tree, cflags)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = dict(zip(tools, pool.map(both, tools), strict=True))
    for tool, (text, precompiled) in results.items():
        assert text.functions, tool
        assert precompiled.functions == text.functions, tool


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_headers_can_go(bus: Bus, real_daemon: Daemon) -> None:
    _, cflags, details = get_pch(bus, "bcc-net")
    text = compiled("tcplife", details["source_tree"], cflags)
    _, again, details = get_pch(bus, "bcc-net", "1", "keep_headers", "b", "false")
    assert not details["headers_kept"]
    assert again == cflags
    tree = Path(details["source_tree"])
    assert not (tree / "include/net/sock.h").exists()
    # It includes what has no include guard, and is not in the list of the profile.
    program = (
        f"from bcc import BPF\nprint(BPF(text={TEXT!r}, cflags={cflags!r}).dump_func('on_exit').hex())\n"
    )
    assert re.fullmatch(r"[0-9a-f]{32,}\n", bcc(str(tree), "-c", program))
    assert compiled("tcplife", str(tree), cflags).functions == text.functions
    assert sum(file.stat().st_blocks * 512 for file in tree.rglob("*")) < 1 << 20


@pytest.mark.slow
def test_libbcc_tells_its_compiler_the_same(bus: Bus, real_daemon: Daemon, profile: Profile) -> None:
    _, _, details = get_pch(bus, "bcc-small")
    assert Path(details["compiler"]).parent.parent.name == f"llvm-{command().major}"
    assert details["consumer"] == "bcc"
    tree = details["source_tree"]
    text = "int f(void *c) { return 0; }"
    said = bcc(tree, "-c", f"from bcc import BPF\nBPF(text={text!r}, debug=4, cflags=['-fms-extensions'])")
    libbcc = next(line for line in said.splitlines() if line.startswith("clang -cc1 ")).split()
    made = bcc_recipe(profile, found(compiler_name()), Path(tree), "0" * 64, ARCHITECTURE, command())
    assert _language(libbcc) == _language(list(made.build)) == _language(list(made.text))
    for option in ("-triple", "-target-cpu", "-tune-cpu", "-mrelocation-model", "-pic-level", "-D"):
        assert _behind(list(made.build), option) == _behind(libbcc, option)


def _behind(words: list[str], option: str) -> list[str]:
    return [value for at, value in itertools.pairwise(words) if at == option]


def _language(words: list[str]) -> set[str]:
    """The options that say how code is to be understood and made."""
    return {
        word
        for word in words
        if re.match(r"-(?:f|m[a-z]|O|D[A-Z_]|W|pic|debug|dwarf)", word)
        and not re.search("compilation-dir|embed-all|pch-timestamp|main-file", word)
    }


def test_libbcc_is_in_the_key(profile: Profile, copied: Path, tmp_path: Path) -> None:
    first = recipe(profile, tmp_path, copied)
    assert first == recipe(profile, tmp_path, copied)
    with open(copied, "ab") as file:
        file.write(b"another build")
    second = recipe(profile, tmp_path, copied)
    assert second.library != first.library
    assert second.key != first.key
    assert second.build == first.build


def test_a_header_of_libbcc_is_in_the_key(profile: Profile, copied: Path, tmp_path: Path) -> None:
    first = recipe(profile, tmp_path, copied)
    data = copied.read_bytes()
    copied.write_bytes(data.replace(b"#define __BPF_HELPERS_H\n", b"#define __BPF_HELPERS_H \n", 1)[:-1])
    with pytest.raises(NotAvailable, match=r"helpers\.h where it can be found"):
        recipe(profile, tmp_path, copied)
    copied.write_bytes(data.replace(b"Licensed under the Apache", b"Licensed under the apache"))
    second = recipe(profile, tmp_path, copied)
    assert second.source != first.source
    assert second.key != first.key


def test_only_the_compiler_of_its_llvm_is_used(profile: Profile, tmp_path: Path) -> None:
    other = dataclasses.replace(found(compiler_name()), name="clang-99", major=99)
    with pytest.raises(NotAvailable, match=r"accepts nothing from clang-99; name clang-[0-9]+"):
        bcc_recipe(profile, other, tmp_path, "0" * 64, ARCHITECTURE, command())


def test_without_libbcc(roots_own: Path) -> None:
    libraries = InstalledLibbcc([roots_own / "libbcc.so.0"])
    with pytest.raises(NotAvailable, match="libbcc is not installed"):
        libraries.installed()


def test_what_is_known_is_never_read_again(copied: Path) -> None:
    libraries = InstalledLibbcc([copied])
    digest = LIBBCC.installed().digest
    assert not libraries.is_known(digest)
    found = libraries.installed()
    assert libraries.installed() is found
    assert libraries.is_known(digest)
    assert not libraries.is_known("0" * 64)
    contents = copied.read_bytes()
    copied.resolve().unlink()
    assert not libraries.is_known(digest)
    assert not libraries.is_current(digest)
    (copied.parent / found.path.name).write_bytes(contents)
    assert not libraries.is_known(digest)
    assert libraries.is_current(digest)
    assert libraries.installed() == found
    assert libraries.is_known(digest)


def test_what_is_no_library_does_not_answer(copied: Path) -> None:
    data = copied.read_bytes()
    copied.write_bytes(b"not an ELF file" + data[15:])
    with pytest.raises(NotAvailable, match=r"libbcc\.so\.0\.99\.0 does not say how .*invalid ELF header"):
        ask(InstalledLibbcc([copied]))


def test_a_library_that_others_can_write_to(copied: Path) -> None:
    copied.chmod(0o666)
    with pytest.raises(NotAvailable, match="others than root can write"):
        ask(InstalledLibbcc([copied]))
