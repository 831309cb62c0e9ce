"""Extraction as the tests want it: bytes in, a directory out."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from kheadersd.cache import extract
from kheadersd.formats import decompress
from kheadersd.formats.xz_index import xz_size
from kheadersd.sources.source import Archive, Layer, Limits, whole
from tests.support.hosts import ignore
from tests.support.threads import at_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def layer(data: bytes, place: Callable[[str], str | None] = whole, label: str = "a.tar.xz") -> Layer:
    """A layer of compressed or plain bytes."""
    return Layer(
        label,
        lambda: decompress.chunks(lambda: io.BytesIO(data), label),
        place,
        xz_size(data),
    )


def archive(*layers: Layer | bytes) -> Archive:
    """An archive of layers, or of bytes taken as they are."""
    return Archive("0" * 64, [one if isinstance(one, Layer) else layer(one) for one in layers], "made up")


def extract_archive(
    directory: Path,
    given: Archive,
    *,
    limits: Limits | None = None,
    cancelled: threading.Event | None = None,
    report: Callable[[str, float], None] = lambda _stage, _fraction: None,
) -> extract.Extracted:
    """Extract below ``directory``, which is made if need be."""
    directory.mkdir(exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return extract.extract(
            given,
            fd,
            limits=limits or Limits(),
            report=report,
            cancelled=cancelled or threading.Event(),
        )
    finally:
        os.close(fd)


def extract_to(
    directory: Path,
    *layers: Layer | bytes,
    limits: Limits | None = None,
    cancelled: threading.Event | None = None,
    report: Callable[[str, float], None] = lambda _stage, _fraction: None,
) -> extract.Extracted:
    """As `extract_archive`, of layers."""
    return extract_archive(directory, archive(*layers), limits=limits, cancelled=cancelled, report=report)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """No descriptor and no thread more than before."""
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = at_work()
    yield
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert at_work() <= threads


def contents(directory: Path) -> dict[str, tuple[str, int, bytes | str]]:
    """Everything below a directory: kind, mode and content, by name."""
    found: dict[str, tuple[str, int, bytes | str]] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        mode = path.lstat().st_mode & 0o7777
        if path.is_symlink():
            found[name] = ("link", 0, os.readlink(path))
        elif path.is_dir():
            found[name] = ("directory", mode, "")
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found


LIMITS = Limits()


def put(archive: Archive, directory: Path) -> Path:
    """Extract it."""
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    try:
        extract.extract(archive, fd, limits=LIMITS, report=ignore, cancelled=threading.Event())
    finally:
        os.close(fd)
    return directory
