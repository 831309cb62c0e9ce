"""The manifest: what is written is read, and every change to a tree is told."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.cache.manifest import MAX_PROBLEMS, Item, Manifest, compare
from kheadersd.errors import Corrupt
from kheadersd.formats.tar import DIRECTORY, FILE, SYMLINK
from tests.support.archives import make_kheaders, tree_tar
from tests.support.extracting import extract_to, nothing_left

LINKS = {"include/asm": "../arch/x86/include/asm"}
A_FILE = "include/linux/kconfig.h"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "tree"


@pytest.fixture
def manifest(tree: Path) -> Manifest:
    return extract_to(tree, make_kheaders("6.1.0-13-amd64", links=LINKS)).manifest


def test_what_is_encoded_is_decoded(manifest: Manifest) -> None:
    assert Manifest.decode(manifest.encode()) == manifest


ENTRIES = st.one_of(
    st.just(Item(DIRECTORY)),
    st.builds(Item, st.just(FILE), st.integers(0, 1 << 40), st.just("ab" * 32)),
    st.builds(Item, st.just(SYMLINK), st.just(0), st.text(min_size=1).filter(str.isprintable)),
)


@given(st.dictionaries(st.text(min_size=1).filter(str.isprintable), ENTRIES))
def test_every_name_and_target_that_can_be_extracted(entries: dict[str, Item]) -> None:
    assert Manifest.decode(Manifest(entries).encode()).entries == entries


@given(st.data())
def test_a_damaged_manifest_is_corrupt(data: st.DataObject) -> None:
    good = Manifest({"include": Item(DIRECTORY), "include/a.h": Item(FILE, 1, "ab" * 32)}).encode()
    damaged = bytearray(good)
    at = data.draw(st.integers(0, len(good) - 1))
    damaged[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    if damaged != good:
        with pytest.raises(Corrupt):
            Manifest.decode(bytes(damaged))


@given(st.binary(max_size=100))
def test_noise_is_no_manifest(noise: bytes) -> None:
    with pytest.raises(Corrupt):
        Manifest.decode(noise)


def test_an_untouched_tree_has_no_problems(tree: Path, manifest: Manifest) -> None:
    with nothing_left():
        assert compare(tree, manifest) == []


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("kept"))
    path.symlink_to("kept")


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (lambda tree: (tree / A_FILE).unlink(), ["'include/linux/kconfig.h': missing"]),
        (lambda tree: (tree / "include/asm").unlink(), ["'include/asm': missing"]),
        (
            lambda tree: rewrite(tree / A_FILE, (tree / A_FILE).read_bytes().upper()),
            ["'include/linux/kconfig.h': changed, the content is not what was extracted"],
        ),
        (
            lambda tree: rewrite(tree / A_FILE, b""),
            ["'include/linux/kconfig.h': changed, 0 bytes instead of 59"],
        ),
        (
            lambda tree: (tree / A_FILE).chmod(0o666),
            ["'include/linux/kconfig.h': mode 0666 instead of 0444"],
        ),
        (lambda tree: (tree / "include").chmod(0o777), ["'include': mode 0777 instead of 0755"]),
        (
            lambda tree: replace_by_fifo(tree / A_FILE),
            ["'include/linux/kconfig.h': wrong kind, a special file instead of a file"],
        ),
        (
            lambda tree: replace_by_link(tree / A_FILE),
            [
                "'include/linux/kept': extra, nothing of that name was extracted",
                "'include/linux/kconfig.h': wrong kind, a symlink instead of a file",
            ],
        ),
        (
            lambda tree: replace_by_link(tree / "include/linux"),
            [
                "'include/kept': extra, nothing of that name was extracted",
                "'include/linux': wrong kind, not a directory",
            ],
        ),
        (lambda tree: shutil.rmtree(tree / "arch"), ["'arch': missing"]),
        (
            lambda tree: ((tree / "include/asm").unlink(), (tree / "include/asm").symlink_to("/etc")),
            ["'include/asm': changed, leads to '/etc', not '../arch/x86/include/asm'"],
        ),
        (
            lambda tree: ((tree / "include/asm").unlink(), (tree / "include/asm").mkdir()),
            ["'include/asm': wrong kind, a directory instead of a symlink"],
        ),
        (
            lambda tree: (tree / "include/new/deep").mkdir(parents=True),
            ["'include/new': extra, nothing of that name was extracted"],
        ),
        (
            lambda tree: (tree / "ev\nil").write_bytes(b""),
            ["'ev\\nil': extra, nothing of that name was extracted"],
        ),
    ],
)
def test_changes(tree: Path, manifest: Manifest, change: object, problems: list[str]) -> None:
    assert callable(change)
    change(tree)
    with nothing_left():
        assert compare(tree, manifest) == problems


def test_a_tree_that_is_gone(tree: Path, manifest: Manifest) -> None:
    shutil.rmtree(tree)
    assert compare(tree, manifest) == [f"{tree}: missing"]


def test_an_emptied_tree(tree: Path, manifest: Manifest) -> None:
    shutil.rmtree(tree)
    tree.mkdir()
    assert compare(tree, manifest) == ["'arch': missing", "'include': missing"]


def test_many_problems_are_counted(tree: Path) -> None:
    files = {f"{number}.h": b"" for number in range(MAX_PROBLEMS + 7)}
    manifest = extract_to(tree, tree_tar(files)).manifest
    for name in files:
        (tree / name).unlink()
    problems = compare(tree, manifest)
    assert len(problems) == MAX_PROBLEMS + 1
    assert problems[-1] == "and 7 more"


def test_a_tree_that_goes_away_meanwhile(tree: Path) -> None:
    files = {f"include/{number // 50}/{number}.h": b"x" * 100 for number in range(2000)}
    manifest = extract_to(tree, tree_tar(files)).manifest
    remover = threading.Thread(target=shutil.rmtree, args=(tree,))
    remover.start()
    while remover.is_alive():
        compare(tree, manifest)
    remover.join()
    assert compare(tree, manifest) == [f"{tree}: missing"]
