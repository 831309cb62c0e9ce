"""Nothing is read that is not there, and what is looked for is found wherever it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.errors import Corrupt
from kheadersd.formats.file_slice import FileSlice


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_bytes_and_parts(file: int) -> None:
    content = FileSlice(file, "x")
    assert (content.size, content.at(3, 4), content.at(10, 0)) == (10, b"3456", b"")
    assert (content.up_to(8, 5), content.up_to(12, 5)) == (b"89", b"")
    part = content.part(2, 5).part(1, 3)
    assert (part.size, part.at(0, 3), part.up_to(2, 9)) == (3, b"345", b"5")


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (0, -1), (0, 11), (10, 1), (2**64, 1), (1, 2**64)])
def test_what_is_outside(file: int, offset: int, size: int) -> None:
    for read in (FileSlice(file, "x").at, FileSlice(file, "x").part):
        with pytest.raises(Corrupt, match="x is damaged: it ends before"):
            read(offset, size)


def test_a_file_that_becomes_shorter(file: int) -> None:
    content = FileSlice(file, "x")
    os.ftruncate(file, 5)
    with pytest.raises(Corrupt, match="x is damaged: it ends before"):
        content.at(0, 10)


def test_found_across_the_borders_of_pieces(file: int) -> None:
    for at in range((1 << 20) - 6, (1 << 20) + 2):
        os.ftruncate(file, 0)
        os.ftruncate(file, (2 << 20) + 100)
        os.pwrite(file, b"needle", at)
        assert {where for where, _ in FileSlice(file, "x").find(re.compile(b"needle"), 6)} == {at}
