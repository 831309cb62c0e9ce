"""Directories that are written, exchanged and removed while other programs may change them."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from kheadersd.errors import KheadersError, NoSpace
from kheadersd.system import disk
from kheadersd.system.disk import DiskError, Vanished
from kheadersd.system.tasks import Cancelled


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        (errno.ENOSPC, NoSpace, r"cannot write x: No space left on device; [0-9]+ bytes are free"),
        (errno.EDQUOT, NoSpace, "bytes are free"),
        (errno.ENOENT, Vanished, "was removed by another program; ask again"),
        (errno.ESTALE, Vanished, "ask again"),
        (errno.EIO, DiskError, "cannot write x in .*: Input/output error"),
    ],
)
def test_errors_are_explained(tmp_path: Path, code: int, error: type[KheadersError], words: str) -> None:
    with pytest.raises(error, match=words) as caught, disk.explained("write x", tmp_path):
        raise OSError(code, os.strerror(code))
    assert isinstance(caught.value, Vanished) is (error is Vanished)


def test_a_full_disk_that_vanished_has_no_room(tmp_path: Path) -> None:
    with (
        pytest.raises(NoSpace, match="; 0 bytes are free"),
        disk.explained("write x", tmp_path / "missing"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_new_file_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "file"
    disk.write_new(path, b"one", mode=0o600, sync=True)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        disk.write_new(path, b"two")
    assert path.read_bytes() == b"one"
    (tmp_path / "file.new").write_bytes(b"of a run that was killed")
    disk.replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_two_names_are_exchanged(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    assert disk.exchange(tmp_path / "one", tmp_path / "two")
    assert [(tmp_path / name).read_text() for name in ("one", "two")] == ["two", "one"]
    with pytest.raises(FileNotFoundError):
        disk.exchange(tmp_path / "one", tmp_path / "missing")


def test_another_directory_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "entry").mkdir()
    inode = (tmp_path / "entry").stat().st_ino
    disk.check_inode((tmp_path / "entry").stat(), inode)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError):
        disk.check_inode((tmp_path / "other").stat(), inode)


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept/file"
    kept.parent.mkdir()
    kept.write_text("")
    tree = tmp_path / "tree"
    (tree / "deep/deeper").mkdir(parents=True)
    (tree / "deep/to-directory").symlink_to(kept.parent)
    (tree / "deep/to-file").symlink_to(kept)
    assert disk.remove_tree(tree) == []
    assert not tree.exists()
    assert kept.exists()
    assert disk.remove_tree(tree) == []  # another program has removed it


def test_a_directory_that_lost_its_permissions_is_removed(tmp_path: Path) -> None:
    inner = tmp_path / "tree/inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("")
    inner.chmod(0)
    assert disk.remove_tree(tmp_path / "tree") == []
    assert not (tmp_path / "tree").exists()


def test_what_cannot_be_removed_is_told_and_the_rest_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("one", "two"):
        (tree / name).write_text("")
    unlink = os.unlink

    def refuse(path: str) -> None:
        if path.endswith("one"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path)

    monkeypatch.setattr(os, "unlink", refuse)
    first, second = disk.remove_tree(tree)
    assert first == f"cannot remove {tree}/one: Operation not permitted"
    assert second.startswith(f"cannot remove {tree}: ")
    assert [child.name for child in tree.iterdir()] == ["one"]


def test_a_removal_can_be_cancelled(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("")
    with pytest.raises(Cancelled):
        disk.remove_tree(tmp_path / "tree", cancelled)
    assert (tmp_path / "tree/file").exists()


def test_used_bytes_are_those_of_all_below(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").write_bytes(b"x" * 100_000)
    (tmp_path / "a/link").symlink_to("/usr")
    expected = sum(path.lstat().st_blocks for path in (tmp_path / "a").rglob("*")) * 512
    assert disk.used_bytes(tmp_path / "a") == expected >= 100_000
    assert disk.used_bytes(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("36 35 98:0 /kheaders/6.1.0-abc/tree /run/kheaders/build rw - ext4 /dev/sda1 rw\n", True),
        ("36 35 98:0 /kheaders/6.1.0-other/tree /run/kheaders/build rw - ext4 /dev/sda1 rw\n", False),
        ("36 35\n", False),
        ("", False),
    ],
)
def test_a_mounted_directory_is_known_by_its_last_two_names(
    tmp_path: Path, line: str, *, expected: bool
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(line)
    assert disk.is_mounted(Path("/var/cache/kheaders/6.1.0-abc/tree"), table) is expected
    assert not disk.is_mounted(Path("/var/cache/kheaders/6.1.0-abc/tree"), tmp_path / "missing")
