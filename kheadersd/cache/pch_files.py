"""What was precompiled from an entry: kept below it, so that it goes when the entry goes.

Layout, below the directory of the entry::

    pch/<key>/headers.pch    a precompiled header of clang's
    pch/<key>/record.json    the record
    pch/<key>/prefix.h       what is included before every program, where something is
    pch/<key>/include/bpf    a symlink to libbpf's headers, which programs include besides

Everything here is blocking, but for `Pch.intact`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import time
from typing import TYPE_CHECKING

from ..system import disk, files
from ..system.file_identity import FileIdentity, identity_of
from . import records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "headers.pch"
PREFIX = "prefix.h"
"""The name of the prefix header, beside the precompiled one."""

_LIBBPF = "/usr/include/bpf"

Bytes = bytes  # a record has a field of that name

_VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_RECORD = 4 << 20
_MAX_PREFIX = 1 << 20
_BLOCK = 1 << 20
_MINUTE = 60_000_000  # microseconds
_IN_USE = 60 * _MINUTE
_STAGING = ".staging-"
_TRASH = ".trash-"
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True, slots=True)
class PchRecord:
    """What is known of a precompiled header; kept as record.json.

    Attributes:
        key: of everything that it depends on, 64 hex digits.
        profile: the name of the profile, also of one with a caller's own list of headers.
        headers: as in ``#include <…>``, in this order.
        compiler: the path of the compiler.
        compiler_version: as it tells itself.
        compiler_digest: of all of its files.
        text: the complete arguments without the precompiled header.
        backend: the arguments of a second step, from IR to BPF; empty if there is none.
        source: what was compiled.
        canary: a program that includes all of the headers.
        library: the digest of the library that compiles programs, "" where that is the compiler itself.
        sha256: of the file.
        bytes: of the file.
        made_at: microseconds since the epoch.
        needed: the names in the tree without which it is of no use when the headers have gone; None as long
            as that has not been found out.
    """

    key: str
    profile: str
    headers: tuple[str, ...]
    compiler: str
    compiler_version: str
    compiler_digest: str
    text: tuple[str, ...]
    backend: tuple[str, ...]
    source: str
    canary: str
    library: str
    sha256: str
    bytes: int
    made_at: int
    needed: tuple[str, ...] | None = None

    def encode(self) -> Bytes:
        """The record as JSON, for its file."""
        return records.encode(self, _VERSION)

    @classmethod
    def decode(cls, data: Bytes) -> PchRecord:
        """Read a record.

        Raises:
            records.OtherVersion: it is one of another version.
            ValueError: it is no record.
        """
        record = records.decode(cls, data, _VERSION)
        if not _KEY.fullmatch(record.key) or not _KEY.fullmatch(record.sha256):
            raise ValueError("key and sha256 have to be 64 hex digits")
        return record


class Pch:
    """A precompiled header that is there.

    A damaged one crashes the compiler, or worse: it is handed out only while the file, and the prefix header
    that programs are compiled with besides, are known to have the content that was written.

    Attributes:
        record: what is known of it.
        path: the file.
        last_used: microseconds since the epoch; right to a minute, it is the mtime of the record.
    """

    __slots__ = ("_files", "_noted", "_stamps", "last_used", "path", "record")

    def __init__(self, record: PchRecord, path: Path, *, confirmed: bool = False, last_used: int = 0) -> None:
        self.record = record
        self.path = path
        self.last_used = self._noted = last_used or record.made_at
        has_prefix = any(item.endswith(f"/{record.key}/{PREFIX}") for item in record.text)
        self._files = (path, path.with_name(PREFIX)) if has_prefix else (path,)
        self._stamps = _stamps(self._files) if confirmed else None

    def intact(self) -> bool:
        """Whether its files are those that were made or last confirmed, untouched; some microseconds."""
        return self._stamps is not None and _stamps(self._files) == self._stamps

    def touch(self) -> None:
        """Note that it is used, in memory and, at most once a minute, on the disk."""
        self.last_used = now = time.time_ns() // 1000
        if not 0 <= now - self._noted < _MINUTE:
            self._noted = now
            with contextlib.suppress(OSError):  # then it may leave earlier
                os.utime(self.path.parent / "record.json", ns=(now * 1000, now * 1000))

    def is_in_use(self) -> bool:
        """Whether a program was given it within the last hour, and is taken to use it still."""
        return time.time_ns() // 1000 - self.last_used < _IN_USE

    def confirm(self) -> bool:
        """Read all of it; some 20 ms. Afterwards `intact` holds, if this does."""
        self._stamps = None
        before = _stamps(self._files)
        if before is None or self.problem():
            return False
        self._stamps = before
        return True

    def problem(self) -> str:
        """How the file differs from what was written, in a sentence; "" if it does not."""
        for path in self._files:
            name = f"pch/{self.record.key}/{path.name}"
            try:
                if path.name == NAME and _sha256(path) != self.record.sha256:
                    return f"{name}: changed, the content is not what the compiler wrote"
                if path.name == PREFIX and files.read_text(path, _MAX_PREFIX) not in self.record.source:
                    return f"{name}: changed, the content is not what was compiled"
            except OSError as error:
                return f"{name}: cannot be read: {error.strerror}"
        return ""

    def rewrite(self, record: PchRecord) -> None:
        """Replace the record on the disk and in memory.

        Raises:
            NoSpace, Vanished, DiskError: the old one is still there.
        """
        with disk.explained("rewrite the record of the precompiled header", self.path.parent):
            disk.replace_file(self.path.with_name("record.json"), record.encode())
        self.record = record


class PchStaging:
    """A place to make a precompiled header in. `close` it: that removes it unless it was published.

    Attributes:
        path: the directory.
        file: a descriptor of the empty file, to be written.
    """

    def __init__(self, cache: Path) -> None:
        """Make the place.

        Raises:
            NoSpace, DiskError: it cannot be made; nothing is left.
        """
        self.path = cache / (_STAGING + os.urandom(8).hex())
        self._published = False
        with disk.explained("make a precompiled header", cache):
            self.path.mkdir(mode=0o700)
            try:
                self.file = os.open(self.path / NAME, _CREATE, 0o644)
                os.fchmod(self.file, 0o644)
            except BaseException:
                disk.remove_tree(self.path)
                raise

    def close(self) -> None:
        """Close the file; remove it, unless it was published."""
        os.close(self.file)
        if not self._published:
            disk.remove_tree(self.path)

    def measure(self) -> tuple[str, int]:
        """The sha256 and the size of what was written.

        Raises:
            Vanished, DiskError: it cannot be read.
        """
        with disk.explained("measure the precompiled header", self.path):
            return _sha256(self.path / NAME), os.fstat(self.file).st_size

    def publish(self, entry: Path, record: PchRecord, prefix: Bytes = b"") -> Pch:
        """Give it its name below the entry, in one step, after it has reached the disk.

        Whatever had the name before is removed.

        Args:
            entry: the directory of the entry.
            prefix: the content of the prefix header; without any there is no such file.

        Raises:
            NoSpace, Vanished, DiskError: it cannot be kept.
        """
        with disk.explained("keep the precompiled header", self.path.parent):
            os.fsync(self.file)
            disk.write_new(self.path / "record.json", record.encode(), sync=True)
            if prefix:
                disk.write_new(self.path / PREFIX, prefix, sync=True)
            include = self.path / "include"
            include.mkdir()
            include.chmod(0o755)
            (include / "bpf").symlink_to(_LIBBPF)  # whether they are installed now or later
            parent = entry / "pch"
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
            self.path.chmod(0o755)
            target = parent / record.key
            if (old := _to_trash(target)) is not None:
                disk.remove_tree(old)
            self.path.rename(target)
            disk.sync_directory(parent)
        self._published = True
        path = target / NAME
        return Pch(record, path, confirmed=True)


def move_to_trash(pch: Pch) -> Path | None:
    """Make a precompiled header vanish in one step, so that no program sees half of it; 0.1 ms.

    Returns:
        Where its files are now, to be removed; None if they were gone already.

    Raises:
        DiskError: it cannot be renamed, and is still there.
    """
    try:
        return _to_trash(pch.path.parent)
    except OSError as error:
        raise disk.DiskError(f"cannot remove {pch.path}: {error.strerror}") from error


def _to_trash(directory: Path) -> Path | None:
    trash = directory.parent / (_TRASH + os.urandom(8).hex())
    try:
        directory.rename(trash)
    except FileNotFoundError:
        return None
    return trash


def load(entry: Path, *, discard_damaged: bool = True) -> dict[str, Pch]:
    """What is there for an entry at start; what is damaged is removed, unless it may be in use.

    None of it is known to be intact: it is confirmed before it is handed out. What is of another version, or
    cannot be read now, is left alone.
    """
    found: dict[str, Pch] = {}
    try:
        names = sorted(os.listdir(entry / "pch"))
    except OSError:
        return found
    for name in names:
        directory = entry / "pch" / name
        try:
            if not stat.S_ISDIR(os.lstat(directory).st_mode):
                raise ValueError("it is not a directory")
            with files.opened(directory / "record.json", follow=False) as (descriptor, status):
                record = PchRecord.decode(files.read_up_to(descriptor, _MAX_RECORD))
            if record.key != name or os.lstat(directory / NAME).st_size != record.bytes:
                raise ValueError("it is not what was written")
        except records.OtherVersion:
            continue
        except (FileNotFoundError, NotADirectoryError, files.UnfitFile, ValueError, RecursionError):
            if discard_damaged:
                disk.remove_tree(directory)
        except OSError:
            continue
        else:
            used = min(status.st_mtime_ns // 1000, time.time_ns() // 1000)
            found[name] = Pch(record, directory / NAME, last_used=used)
    return found


def carry_over(old: Path, new: Path) -> dict[str, Pch]:
    """Let a directory that is about to replace an entry have what was precompiled from it.

    It is linked, not moved, so that it is there at every moment. That is another change of the files, and
    they are confirmed before they are handed out again.

    Args:
        old: the entry's directory, if there is one.
        new: what will have its name.

    Returns:
        What was carried over, by the names that it will have.

    Raises:
        OSError: it could not be written.
    """
    found = load(old, discard_damaged=False)
    for key, pch in found.items():
        target = new / "pch" / key
        target.mkdir(parents=True)
        for directory in (new / "pch", target):
            directory.chmod(0o755)
        for child in pch.path.parent.iterdir():
            _link(child, target / child.name)
    return found


def _link(old: Path, new: Path) -> None:
    """Link files; make directories and symlinks anew."""
    if old.is_symlink():
        new.symlink_to(old.readlink())
    elif old.is_dir():
        new.mkdir()
        new.chmod(0o755)
        for child in old.iterdir():
            _link(child, new / child.name)
    else:
        os.link(old, new)


def _stamps(paths: Iterable[Path]) -> tuple[FileIdentity, ...] | None:
    """Those of files; None if one is not there."""
    try:
        found = [os.lstat(path) for path in paths]
    except OSError:
        return None
    return tuple(map(identity_of, found))


def _sha256(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with files.opened(path, follow=False) as (descriptor, status):
        left = status.st_size + 1  # a file that grows is not followed for ever
        while left and (piece := os.read(descriptor, min(left, _BLOCK))):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()
