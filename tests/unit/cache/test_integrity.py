"""What is remembered of a tree: the same, whether its directories are known or looked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheadersd.cache.integrity import Integrity
from kheadersd.cache.manifest import Item, Manifest, directories
from kheadersd.formats.tar import DIRECTORY, FILE, SYMLINK

if TYPE_CHECKING:
    from pathlib import Path

# Names that a plain sort of whole paths brings into another order than one directory after the other.
_DIRECTORIES = ("include", "include/linux", "include/linux-more", "include/linux/a", "include/é", "arch", "d")


def test_known_directories(tmp_path: Path) -> None:
    entries = {name: Item(DIRECTORY) for name in _DIRECTORIES}
    entries |= {"include/linux/types.h": Item(FILE, 0, "ab" * 32), "d/link": Item(SYMLINK, 0, "x")}
    for name in _DIRECTORIES:
        (tmp_path / name).mkdir()
    (tmp_path / "include/linux/types.h").touch()
    (tmp_path / "d/link").symlink_to("../include")
    found = directories(Manifest(entries).encode())
    assert found == list(_DIRECTORIES)
    known = Integrity.of(tmp_path, found)
    assert known.encode("x") == Integrity.of(tmp_path).encode("x")
    assert known.is_unchanged()
    (tmp_path / "include/linux/a/new.h").touch()
    known.on_unknown_change()
    assert not known.is_unchanged()


def test_a_directory_that_was_removed_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    assert Integrity.of(tmp_path, ["include", "arch", "arch/x86"]).encode("x") == Integrity.of(
        tmp_path
    ).encode("x")
