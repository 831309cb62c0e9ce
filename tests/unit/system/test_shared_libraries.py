"""Libraries are found as ld.so(8) finds them, whatever its cache has."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest

from kheadersd.system import shared_libraries
from kheadersd.system.shared_libraries import candidates

_DEFAULT = tuple(Path(place, "libx.so.1") for place in ("/lib64", "/usr/lib64", "/lib", "/usr/lib"))
_THIS = shared_libraries._KINDS.get(os.uname().machine, 0x0303)


def cache(*entries: tuple[int, str, str, int], before: bytes = b"") -> bytes:
    """As ldconfig(8) writes it: kind, name, path and processor capabilities of each library."""
    start = 48 + 24 * len(entries)
    strings, table = b"", b""
    for kind, name, path, capabilities in entries:
        key = start + len(strings)
        strings += name.encode() + b"\0"
        value = start + len(strings)
        strings += path.encode() + b"\0"
        table += struct.pack("=iIIIQ", kind, key, value, 0, capabilities)
    head = struct.pack("=20sII20x", b"glibc-ld.so.cache1.1", len(entries), len(strings))
    return before + head + table + strings


def found(tmp_path: Path, data: bytes) -> tuple[Path, ...]:
    (tmp_path / "cache").write_bytes(data)
    return candidates("libx.so.1", tmp_path / "cache")


def test_the_order_of_the_cache(tmp_path: Path) -> None:
    data = cache(
        (0x0999, "libx.so.1", "/other/machine/libx.so.1", 0),
        (_THIS, "libx.so.1", "/only/new/processors/libx.so.1", 1 << 62),
        (_THIS, "libx.so.10", "/ten/libx.so.10", 0),
        (_THIS, "libx.so.1", "/first/libx.so.1", 0),
        (_THIS, "libx.so.1", "relative", 0),
        (_THIS, "libx.so.1", "/lib/libx.so.1", 0),
    )
    expected = (Path("/first/libx.so.1"), Path("/lib/libx.so.1"), *_DEFAULT[:2], _DEFAULT[3])
    assert found(tmp_path, data) == expected
    assert found(tmp_path, b"ld.so-1.7.0\0 an older table" + data) == expected


@pytest.mark.parametrize("length", [0, 12, 30, 48, 60, 72, 80])
def test_a_damaged_cache_names_nothing(tmp_path: Path, length: int) -> None:
    assert found(tmp_path, cache((_THIS, "libx.so.1", "/first/libx.so.1", 0))[:length]) == _DEFAULT


def test_places_beyond_the_end(tmp_path: Path) -> None:
    whole = cache((_THIS, "libx.so.1", "/first/libx.so.1", 0))
    beyond = struct.pack("=iIIIQ", _THIS, 1 << 31, 1 << 31, 0, 0)
    assert found(tmp_path, whole[:48] + beyond + whole[72:]) == _DEFAULT


def test_without_a_cache(tmp_path: Path) -> None:
    assert candidates("libx.so.1", tmp_path / "none") == _DEFAULT
    os.mkfifo(tmp_path / "fifo")
    assert candidates("libx.so.1", tmp_path / "fifo") == _DEFAULT


def test_this_machines_own() -> None:
    """As the loader itself has it."""
    ctypes.CDLL("libm.so.6")
    mapped = Path("/proc/self/maps").read_text()
    first = next(path for path in candidates("libm.so.6") if path.exists())
    assert f" {first.resolve()}\n" in mapped
