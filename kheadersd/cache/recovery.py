"""Reading an entry back from the disk, and deciding whether it can be trusted."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..system import files
from . import pch_files as pch
from .entry import Entry, OtherVersion, Record
from .seal import Seal

if TYPE_CHECKING:
    from pathlib import Path

_MAX_RECORD = 64 * 1024
_MAX_MARK = 4 << 20


def load(directory: Path, *, is_leased: bool = False) -> tuple[Entry, str]:
    """Load an entry at start; blocking, some 30 ms, or 0.2 s if its files have to be compared.

    An entry with its durable mark, and no change since, is taken as it is. Every other one is compared with
    its manifest.

    Args:
        is_leased: whether programs may be working in it: then a damaged one is loaded too.

    Returns:
        The entry, and what is damaged of it, "" if nothing is.

    Raises:
        Corrupt: it is damaged, as the message says, and not leased; or its record is.
        OtherVersion: its record is that of another version.
        OSError: it cannot be read now, which says nothing about it.
    """
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        raise Corrupt("it is not a directory")
    record, last_used = read_record(directory)
    if record.name != directory.name:
        raise Corrupt(f"its record is that of {record.name}")
    damage = ""
    try:
        seal, durable = _examine(directory, record)
    except Corrupt as error:
        if not is_leased:
            raise
        seal, durable, damage = Seal(directory / "tree", {}), False, error.message
    entry = Entry(record, directory, status.st_ino, seal, last_used=last_used, durable=durable)
    entry.damaged = bool(damage)
    entry.given_at = time.monotonic() - (time.time_ns() // 1000 - last_used) / 1e6
    entry.pchs = pch.load(directory, discard_damaged=not is_leased)
    return entry, damage


def _examine(directory: Path, record: Record) -> tuple[Seal, bool]:
    """The seal of an entry's tree, and whether all of it is known to be on the disk.

    Raises:
        Corrupt: it is not what was made.
        OSError: it cannot be read now.
    """
    tree = directory / "tree"
    try:
        seal = Seal.take(tree)
    except (FileNotFoundError, NotADirectoryError):
        raise Corrupt("its tree is missing") from None
    mark = _read_mark(directory)
    if not record.headers_kept and not mark:
        # It is marked once a program was compiled with what is left.
        raise Corrupt("the daemon ended while its headers were being taken away")
    if seal.matches(mark):
        return seal, True
    problems = compare(directory, record)
    damages = [problem for problem in problems if not is_unread(problem)]
    if damages:
        raise Corrupt("; ".join(damages[:3]))
    if problems:
        raise OSError(0, problems[0])
    return seal, False


def compare(directory: Path, record: Record) -> list[str]:
    """Compare every file of an entry with its manifest; blocking, some 0.2 s.

    Returns:
        What is wrong, a sentence each; those of which `is_unread` holds say nothing about the entry.
    """
    import hashlib

    from . import manifest

    try:
        encoded = files.read_file(directory / "manifest", manifest.MAX_ENCODED, follow=False)
    except (FileNotFoundError, NotADirectoryError, files.UnfitFile) as error:
        return [f"manifest: cannot be read: {error.strerror}"]
    except OSError as error:
        return [manifest.Unread(f"manifest: cannot be read: {error.strerror}")]
    if hashlib.sha256(encoded).hexdigest() != record.manifest_sha256:
        return ["manifest: is not what was written, so that the files cannot be compared with it"]
    try:
        return manifest.compare(directory / "tree", manifest.Manifest.decode(encoded))
    except Corrupt as error:
        return [f"manifest: {error.message}"]


def is_unread(problem: str) -> bool:
    """Whether a problem is only that something could not be read at that moment."""
    from .manifest import Unread

    return isinstance(problem, Unread)


def read_record(directory: Path) -> tuple[Record, int]:
    """The record of an entry, and when it was last used, in microseconds since the epoch.

    Raises:
        OtherVersion: it is one of another version.
        Corrupt: it is none.
        OSError: it cannot be read now.
    """
    try:
        with files.opened(directory / "entry.json", follow=False) as (descriptor, status):
            record = Record.decode(files.read_up_to(descriptor, _MAX_RECORD))
    except OtherVersion:
        raise
    except (FileNotFoundError, NotADirectoryError, files.UnfitFile, ValueError, RecursionError) as error:
        raise Corrupt(f"entry.json cannot be used: {error}") from None
    return record, min(status.st_mtime_ns // 1000, time.time_ns() // 1000)


def last_used(directory: Path) -> int:
    """When an entry was last used whose record cannot be read; microseconds since the epoch."""
    try:
        return os.lstat(directory / "entry.json").st_mtime_ns // 1000
    except OSError:
        return 0


def _read_mark(directory: Path) -> bytes:
    try:
        return files.read_file(directory / "durable", _MAX_MARK, follow=False)
    except (FileNotFoundError, files.UnfitFile):
        return b""
