"""Headers as they are saved before they are pushed."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from kheadersd.cli import artifact
from kheadersd.errors import Corrupt


def exported(size: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        member = tarfile.TarInfo("include/linux/a.h")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return data.getvalue()


def save(data: bytes, directory: Path) -> str:
    (directory / "pipe").write_bytes(data)
    return artifact.save_headers(os.open(directory / "pipe", os.O_RDONLY), directory / "archive")


def test_an_export_is_saved_as_it_is(tmp_path: Path) -> None:
    data = exported(100)
    assert save(data, tmp_path) == hashlib.sha256(data).hexdigest()
    assert (tmp_path / "archive").read_bytes() == data


def test_an_export_that_was_cut_short(tmp_path: Path) -> None:
    with pytest.raises(Corrupt):
        save(exported(10_000)[:5000], tmp_path)


def test_an_export_that_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact, "_MAX_EXPORT", 1 << 16)
    with pytest.raises(Corrupt, match="more than 65536 bytes"):
        save(exported(1 << 18), tmp_path)
    assert (tmp_path / "archive").stat().st_size <= 1 << 16
