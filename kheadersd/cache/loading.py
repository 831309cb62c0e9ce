"""Reading an entry back from the disk, and deciding whether it can be trusted."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from ..errors import Corrupt
from . import disk, pch
from .entry import Entry, Record
from .seal import Seal

if TYPE_CHECKING:
    from pathlib import Path

_MAX_RECORD = 64 * 1024


def load(directory: Path, this_boot: str) -> Entry:
    """Load an entry at start; blocking, a millisecond, or some 0.2 s if its files have to be compared.

    An entry with its durable mark and an unbroken seal is taken as it is. One without the mark, of this same
    boot, cannot have lost what was written: it is kept if no file is missing. Every other one is compared
    with its manifest.

    Args:
        this_boot: as `disk.boot_id` gives it.

    Raises:
        OSError, ValueError, Corrupt: it cannot be kept; why is in the text.
    """
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        raise ValueError("it is not a directory")
    record, last_used = _read_record(directory)
    if record.name != directory.name:
        raise ValueError(f"its record is that of {record.name}")
    tree = directory / "tree"
    seal = Seal.take(tree)
    mark = _read_mark(directory)
    if not record.headers_kept and not mark:
        # It is marked once a program was compiled with what is left.
        raise ValueError("the daemon ended while its headers were being taken away")
    durable = seal.matches(mark)
    fresh = not mark and record.boot_id == this_boot != ""
    if not durable and not (fresh and disk.count_files(tree) == record.files):
        problems = compare(directory, record)
        if problems:
            raise Corrupt("; ".join(problems[:3]))
    entry = Entry(record, directory, status.st_ino, seal, last_used=last_used, durable=durable)
    entry.given_at = time.monotonic() - (time.time_ns() // 1000 - last_used) / 1e6
    entry.pchs = pch.load(directory)
    return entry


def compare(directory: Path, record: Record) -> list[str]:
    """Compare every file of an entry with its manifest; blocking, some 0.2 s.

    Returns:
        What is wrong, a sentence each.
    """
    import hashlib

    from ..extraction import manifest

    try:
        encoded = (directory / "manifest").read_bytes()
    except OSError as error:
        return [f"manifest: cannot be read: {error.strerror}"]
    if hashlib.sha256(encoded).hexdigest() != record.manifest_sha256:
        return ["manifest: is not what was written, so that the files cannot be compared with it"]
    try:
        return manifest.compare(directory / "tree", manifest.Manifest.decode(encoded))
    except Corrupt as error:
        return [f"manifest: {error.message}"]


def _read_record(directory: Path) -> tuple[Record, int]:
    try:
        with open(directory / "entry.json", "rb") as file:
            record = Record.decode(file.read(_MAX_RECORD))
            used = os.fstat(file.fileno()).st_mtime_ns // 1000
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"entry.json cannot be used: {error}") from error
    return record, min(used, time.time_ns() // 1000)


def _read_mark(directory: Path) -> bytes:
    try:
        return (directory / "durable").read_bytes()
    except FileNotFoundError:
        return b""
