"""What makes a tree usable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kheadersd.release import Release
from kheadersd.sources.build_tree import Unusable
from kheadersd.sources.source import Reason
from kheadersd.sources.usable import check_usable
from tests.support.hosts import OTHER, RELEASE, put_tree

NEEDED = (
    "include/linux/kconfig.h",
    "include/linux/types.h",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
)


def test_whole_and_split_trees_are_usable(tmp_path: Path) -> None:
    whole = put_tree(tmp_path / "whole")
    check_usable(whole, whole, RELEASE)
    check_usable(
        put_tree(tmp_path / "source", parts="source"), put_tree(tmp_path / "build", parts="build"), RELEASE
    )


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("damage", ["missing", "empty", "directory", "dangling", "pipe"])
def test_a_needed_header_that_is_no_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    tree = put_tree(tmp_path)
    header = tree / name
    header.unlink()
    if damage == "empty":
        header.touch()
    elif damage == "directory":
        header.mkdir()
    elif damage == "dangling":
        header.symlink_to("nowhere")
    elif damage == "pipe":
        os.mkfifo(header)
    with pytest.raises(Unusable, match=str(header)) as caught:
        check_usable(tree, tree, RELEASE)
    assert caught.value.reason is Reason.INCOMPLETE


def test_uts_release_of_another_kernel(tmp_path: Path) -> None:
    tree = put_tree(tmp_path, OTHER)
    with pytest.raises(Unusable, match=f"{OTHER}, not of {RELEASE}") as caught:
        check_usable(tree, tree, RELEASE)
    assert caught.value.reason is Reason.OTHER_RELEASE


@pytest.mark.parametrize(
    "content",
    [
        f'#define UTS_RELEASE "{RELEASE}"',
        f'/* generated */\n#define UTS_UBUNTU_ABI 13\n#define UTS_RELEASE "{RELEASE}"\n#define X "y"\n',
        f'# define\tUTS_RELEASE\t"{RELEASE}"\n',
    ],
)
def test_utsrelease_with_more_in_it(tmp_path: Path, content: str) -> None:
    tree = put_tree(tmp_path)
    (tree / NEEDED[3]).write_text(content)
    check_usable(tree, tree, RELEASE)


@pytest.mark.parametrize(
    "content",
    [b"\n", b'//#define UTS_RELEASE "x"\n', b"#define UTS_RELEASE x\n", b"\xff" * 100, b" " * 200_000],
)
def test_utsrelease_without_a_release(tmp_path: Path, content: bytes) -> None:
    tree = put_tree(tmp_path)
    (tree / NEEDED[3]).write_bytes(content)
    with pytest.raises(Unusable, match="does not define UTS_RELEASE"):
        check_usable(tree, tree, RELEASE)


VERSION_H = "include/generated/uapi/linux/version.h"
MAKEFILE = "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = {}\nEXTRAVERSION ={}\nNAME = Curry\n"


def versions(tree: Path, makefile: str | None, version_h: str | None, release: str = RELEASE) -> Path:
    put_tree(tree, release)
    if makefile is not None:
        (tree / "Makefile").write_text(makefile)
    if version_h is not None:
        (tree / VERSION_H).parent.mkdir(parents=True)
        (tree / VERSION_H).write_text(version_h)
    return tree


def version_h(*parts: int) -> str:
    names = zip(("MAJOR", "PATCHLEVEL", "SUBLEVEL"), parts, strict=True)
    return "".join(f"#define LINUX_VERSION_{name} {part}\n" for name, part in names)


@pytest.mark.parametrize(
    ("makefile", "generated", "release"),
    [
        (MAKEFILE.format(176, ""), version_h(6, 1, 176), RELEASE),
        (MAKEFILE.format(300, ""), f"#define LINUX_VERSION_CODE {0x0601FF}\n", RELEASE),
        # A release is free text.
        (MAKEFILE.format(176, ""), version_h(6, 1, 176), "6.14.5-300.fc41.x86_64"),
        (MAKEFILE.format(176, ""), None, "mine"),
        (MAKEFILE.format(0, " -rc3"), version_h(6, 1, 0), "6.1.0-rc3-mine"),
        (MAKEFILE.format(0, " -rc3"), version_h(6, 1, 0), "6.1.0-7-generic"),
        ("include /usr/src/common/Makefile\n", version_h(6, 2, 0), RELEASE),
        (None, version_h(6, 2, 0), RELEASE),
        (None, None, RELEASE),
    ],
)
def test_versions_that_fit(tmp_path: Path, makefile: str | None, generated: str | None, release: str) -> None:
    tree = versions(tmp_path, makefile, generated, release)
    check_usable(tree, tree, Release(release))


@pytest.mark.parametrize(
    ("makefile", "generated", "release"),
    [
        (MAKEFILE.format(177, ""), version_h(6, 1, 176), RELEASE),
        (MAKEFILE.format(177, ""), f"#define LINUX_VERSION_CODE {0x0601B0}\n", RELEASE),
        (MAKEFILE.format(0, ""), version_h(5, 10, 0), "5.10.0"),
        (MAKEFILE.format(0, ""), None, "5.10.0"),
        (MAKEFILE.format(0, " -rc4"), version_h(6, 1, 0), "6.1.0-rc3-mine"),
        (MAKEFILE.format(0, ""), version_h(6, 1, 0), "6.1.0-rc8"),
    ],
)
def test_sources_that_were_updated_and_not_built(
    tmp_path: Path, makefile: str, generated: str | None, release: str
) -> None:
    tree = versions(tmp_path, makefile, generated, release)
    with pytest.raises(Unusable, match=r"has to be built again") as caught:
        check_usable(tree, tree, Release(release))
    assert caught.value.reason is Reason.INCOMPLETE


def test_a_configuration_of_another_version(tmp_path: Path) -> None:
    tree = versions(tmp_path, None, version_h(6, 1, 176))
    autoconf = tree / NEEDED[2]
    comment = (
        "/*\n * Automatically generated file; DO NOT EDIT.\n * Linux/x86 6.12.3 Kernel Configuration\n */\n"
    )
    autoconf.write_text(comment + autoconf.read_text())
    with pytest.raises(Unusable, match=r"6\.1\.176, and .*autoconf\.h of 6\.12"):
        check_usable(tree, tree, RELEASE)


@pytest.mark.parametrize(
    "content", ["/* nothing */\n", "/*\n#define CONFIG_X86 1\n*/\n", "#undef CONFIG_X86\n"]
)
def test_a_configuration_of_nothing(tmp_path: Path, content: str) -> None:
    tree = put_tree(tmp_path)
    (tree / NEEDED[2]).write_text(content)
    with pytest.raises(Unusable, match="configures no architecture") as caught:
        check_usable(tree, tree, RELEASE)
    assert caught.value.reason is Reason.INCOMPLETE
