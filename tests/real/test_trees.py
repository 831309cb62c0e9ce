"""Debian's own headers: those that are right are served, and each part that is missing is missed."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sources import tree_copy as snapshot
from kheadersd.sources.build_tree import Unusable, architecture, configuration
from kheadersd.sources.installed_tree import TreeSource
from kheadersd.sources.source import Reason, Tree
from kheadersd.sources.usable import OF_ARCHIVES, check_usable
from tests.support import debian
from tests.support.debian_headers import unpacked
from tests.support.extracting import LIMITS, put
from tests.support.hosts import ignore, make_host

pytestmark = pytest.mark.slow

KERNELS = [
    *((suite, "amd64") for suite in ("bookworm", "trixie", "sid")),
    *((suite, "arm64") for suite in ("bookworm", "trixie", "sid")),
    ("bookworm", "686-pae"),
    ("trixie", "rt-amd64"),
]
WIDTHS = {"amd64": True, "arm64": True, "rt-amd64": True, "686-pae": False}


def real(suite: str, flavour: str) -> tuple[Path, Path, Release]:
    """The source tree, the build tree and the release."""
    try:
        root, release = unpacked(suite, flavour)
    except debian.CannotGet as error:
        if suite == "sid":
            pytest.skip(f"sid: {error}")
        raise
    build = root / "usr/src" / f"linux-headers-{release}"
    (source,) = (path for path in (root / "usr/src").iterdir() if path != build)
    return source, build, Release(release)


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, Release]:
    """The headers of Debian 12's kernel in one tree, which the test may change."""
    source, build, release = real("bookworm", "amd64")
    tree = tmp_path / "whole"
    for half in (source, build):
        for name in ("include", "arch/x86/include"):
            shutil.copytree(half / name, tree / name, dirs_exist_ok=True, copy_function=linked)
    shutil.copy(source / "Makefile", tree)
    return tree, release


def linked(source: str, target: str) -> None:
    """A hard link where there can be one: what is changed is replaced, not written to."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.mark.parametrize(("suite", "flavour"), KERNELS)
def test_right_headers_are_usable(suite: str, flavour: str) -> None:
    source, build, release = real(suite, flavour)
    check_usable(source, build, release)
    check_usable(source, build, release, OF_ARCHIVES)
    assert architecture(build) == ("arm64" if flavour == "arm64" else "x86")
    assert configuration(build).is_64bit is WIDTHS[flavour]


@pytest.mark.parametrize(("suite", "flavour"), [("bookworm", "arm64"), ("trixie", "amd64")])
def test_a_copy_of_two_trees_is_a_usable_tree(suite: str, flavour: str, tmp_path: Path) -> None:
    source, build, release = real(suite, flavour)
    host = Host(source.parents[2])
    archive = snapshot.snapshot(host, release, Tree(source, build), LIMITS, threading.Event())
    tree = put(archive, tmp_path / "entry")
    check_usable(tree, tree, release)
    # The common package has a dozen of them.
    assert os.listdir(tree / "arch") == [architecture(build)]


@pytest.mark.parametrize(
    "missing",
    [
        "arch",
        "arch/x86/include/asm",
        "arch/x86/include/uapi",
        "arch/x86/include/generated",
        "arch/x86/include/generated/asm",
        "arch/x86/include/generated/uapi",
        "include/asm-generic",
        "include/uapi",
        "include/asm-generic/bitops",
        "include/linux/spinlock_types.h",
        "include/generated/uapi/linux/version.h",
    ],
)
def test_what_each_program_needs_is_missed(whole: tuple[Path, Release], missing: str) -> None:
    tree, release = whole
    check_usable(tree, tree, release)
    if (tree / missing).is_dir():
        shutil.rmtree(tree / missing)
    else:
        (tree / missing).unlink()
    for included in ({}, {"included": OF_ARCHIVES}):
        with pytest.raises(Unusable) as caught:
            check_usable(tree, tree, release, **included)
        assert caught.value.reason is Reason.INCOMPLETE


@pytest.mark.parametrize(
    "emptied", ["include/linux/spinlock_types.h", "arch/x86/include/generated/uapi/asm/types.h"]
)
def test_headers_that_are_empty_are_noticed(whole: tuple[Path, Release], emptied: str) -> None:
    tree, release = whole
    (tree / emptied).unlink()
    (tree / emptied).touch()
    for included in ({}, {"included": OF_ARCHIVES}):
        with pytest.raises(Unusable, match="it is empty") as caught:
            check_usable(tree, tree, release, **included)
        assert caught.value.reason is Reason.INCOMPLETE


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_the_sources_were_updated_and_not_built(whole: tuple[Path, Release], line_end: str) -> None:
    tree, release = whole
    text = (tree / "Makefile").read_text()
    sublevel = next(line for line in text.splitlines() if line.startswith("SUBLEVEL"))
    (tree / "Makefile").write_text(text.replace(sublevel, "SUBLEVEL = 254"), newline=line_end)
    with pytest.raises(
        Unusable, match=r"version\.h is of Linux 6\.1\.\d+, and .*Makefile of 6\.1\.254"
    ) as caught:
        check_usable(tree, tree, release)
    assert caught.value.reason is Reason.INCOMPLETE


def test_sources_of_one_kernel_and_a_build_of_another() -> None:
    source, _, _ = real("bookworm", "amd64")
    _, build, release = real("trixie", "amd64")
    with pytest.raises(Unusable, match="has to be built again"):
        check_usable(source, build, release)


def test_what_was_generated_is_for_another_architecture(tmp_path: Path) -> None:
    source, build, release = real("bookworm", "amd64")
    _, other, _ = real("bookworm", "arm64")
    mixed = tmp_path / "mixed"
    shutil.copytree(other, mixed, copy_function=linked, symlinks=True)
    shutil.rmtree(mixed / "include/generated")
    shutil.copytree(build / "include/generated", mixed / "include/generated", copy_function=linked)
    with pytest.raises(Unusable, match=r"autoconf\.h says x86; what was generated is for arm64"):
        check_usable(source, mixed, release)
    # Under the right name, too.
    (mixed / "arch/arm64").rename(mixed / "arch/x86")
    with pytest.raises(Unusable, match=r"there is no <asm/"):
        check_usable(source, mixed, release)


def test_left_overs_of_another_architecture_do_no_harm(whole: tuple[Path, Release]) -> None:
    tree, release = whole
    _, other, _ = real("bookworm", "arm64")
    shutil.copytree(other / "arch/arm64", tree / "arch/arm64", copy_function=linked)
    shutil.copytree(other / "arch/arm64", tree / "arch/alpha", copy_function=linked)
    check_usable(tree, tree, release)
    assert architecture(tree) == "x86"


async def test_debian_without_links_or_modules(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    root, release = unpacked("bookworm", "amd64")
    shutil.copytree(root / "usr/src", host.path("usr/src"), copy_function=linked, symlinks=True)
    found = await TreeSource(host).find(Release(release), ignore)
    assert found.build_tree == host.path("usr/src", f"linux-headers-{release}")
    assert found.source_tree.name.endswith("-common")
