"""What an ELF file says of its loader, sound or not."""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.errors import KheadersError
from kheadersd.pch.compiler_files import programs_of
from tests.support.directories import made_for_root
from tests.support.needs import needs_root

pytestmark = needs_root("only root's files are looked at")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with made_for_root() as path:
        yield path


def test_a_program() -> None:
    shell = Path("/bin/sh").resolve()
    loader = programs_of(shell)[shell]
    assert loader is not None
    assert loader.name.startswith("ld-")


def test_a_script(root: Path) -> None:
    (root / "script").write_text("#! /bin/sh -e\n")
    shell = Path("/bin/sh").resolve()
    assert programs_of(root / "script") == {root / "script": None, **programs_of(shell)}


def test_32_bits(root: Path) -> None:
    """As on a machine whose programs are such."""
    order = 1 if sys.byteorder == "little" else 2
    start = struct.pack("=4sBB22xI10xHH18x", b"\x7fELF", 1, order, 64, 32, 2)
    other = struct.pack("=II8xI12x", 1, 0, 0)
    interpreter = struct.pack("=II8xI12x", 3, 128, 8)
    (root / "program").write_bytes(start + other + interpreter + b"/bin/sh\0")
    assert programs_of(root / "program") == {root / "program": Path("/bin/sh").resolve()}


@given(content=st.binary(max_size=200), is_64=st.booleans())
def test_damaged_ones(root: Path, content: bytes, is_64: bool) -> None:
    (root / "damaged").write_bytes(b"\x7fELF" + bytes([1 + is_64]) + content)
    with contextlib.suppress(KheadersError):
        programs_of(root / "damaged")
