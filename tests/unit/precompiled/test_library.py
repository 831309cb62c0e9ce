"""The libbcc that a program has loaded is compared with the one that its precompiled header was made for."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import sysconfig
from pathlib import Path

import pytest

from kheadersd.precompiled.bus import Refused
from kheadersd.precompiled.library import check
from kheadersd.system.file_identity import identity_at

DIGEST = "d" * 64


def file_of(path: Path) -> str:
    return ":".join(map(str, identity_at(path, follow=True) or ()))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A library that no other process has."""
    import _ctypes

    path = tmp_path / "library.so"
    shutil.copy(_ctypes.__file__ or sysconfig.get_config_var("LIBDIR"), path)
    return path


def function_in(library: Path) -> object:
    return ctypes.CDLL(str(library)).PyInit__ctypes


def test_the_same_file_is_not_read(library: Path) -> None:
    check(function_in(library), DIGEST, file_of(library))


def test_another_file_with_the_same_content(library: Path) -> None:
    """As in a container of the same distribution."""
    *_, size = file_of(library).split(":")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    check(function_in(library), digest, f"1:2:3:{size}")
    with pytest.raises(Refused, match="another libbcc"):
        check(function_in(library), DIGEST, f"1:2:3:{size}")


def test_another_size(library: Path) -> None:
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    with pytest.raises(Refused, match="another libbcc"):
        check(function_in(library), digest, "1:2:3:4")


def test_one_that_was_upgraded_meanwhile(library: Path) -> None:
    function = function_in(library)
    new = library.with_name("new")
    shutil.copy(library, new)
    new.rename(library)
    with pytest.raises(Refused, match="another libbcc"):
        check(function, DIGEST, file_of(library))
