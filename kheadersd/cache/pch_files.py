# SPDX-License-Identifier: LGPL-2.1-or-later
"""Precompiled headers of an entry: kept in its directory, and removed with it.

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

from ..errors import Corrupt
from ..system import disk, files
from ..system.file_identity import FileIdentity, identity_of
from . import records
from .hidden import STAGING, move_to_trash, new_name

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "headers.pch"
PREFIX = "prefix.h"
"""The name of the prefix header, beside the precompiled one."""

IN_USE = 3600.0
"""Seconds for which a program is taken to use what it was given."""

_LIBBPF = "/usr/include/bpf"

Bytes = bytes  # a record has a field of that name

_VERSION = 1
_KEY = re.compile(r"[0-9a-f]{64}", re.ASCII)
_MAX_PREFIX = 1 << 20
_MINUTE = 60_000_000  # microseconds
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True, slots=True)
class PchRecord:
    """What is known of a precompiled header; kept as record.json.

    Attributes:
        key: of everything that it depends on, 64 hex digits.
        profile: the name of the profile, also of one with a caller's own list of headers.
        headers: as in ``#include <…>``, in this order.
        compiler: the path of the compiler.
        compiler_version: as the compiler prints it.
        compiler_digest: of all of its files.
        text: the complete arguments without the precompiled header.
        backend: the arguments of a second step, from IR to BPF; empty if there is none.
        source: what was compiled.
        canary: a program that includes all of the headers.
        library: the digest of the library that compiles programs, "" where that is the compiler itself.
        sha256: of the file.
        bytes: of the file.
        made_at: microseconds since the epoch.
        needed: the names in the tree that it needs once the headers are dropped; None until that is known.
        origin: the artifact of a registry that it was fetched from; "" where it was compiled here.
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
    origin: str = ""

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

    A damaged one crashes the compiler, or worse: it is served only while the file, and the prefix header
    that programs are compiled with besides, are known to have the content that was written.

    Attributes:
        record: what is known of it.
        path: the file.
        last_used: microseconds since the epoch; right to a minute, it is the mtime of the record.
        given_at: the same on the monotonic clock, in seconds.
    """

    __slots__ = ("_files", "_identities", "_noted", "given_at", "last_used", "path", "record")

    def __init__(self, record: PchRecord, path: Path, *, verified: bool = False, last_used: int = 0) -> None:
        self.record = record
        self.path = path
        self.last_used = self._noted = last_used or record.made_at
        self.given_at = records.on_monotonic_clock(self.last_used)
        has_prefix = any(item.endswith(f"/{record.key}/{PREFIX}") for item in record.text)
        self._files = (path, path.with_name(PREFIX)) if has_prefix else (path,)
        self._identities = _identities(self._files) if verified else None

    def is_intact(self) -> bool:
        """Whether its files are those that were made or last verified, unchanged; some microseconds."""
        return self._identities is not None and _identities(self._files) == self._identities

    def touch(self) -> None:
        """Note that it is used, in memory and, at most once a minute, on the disk."""
        self.given_at = time.monotonic()
        self.last_used = now = time.time_ns() // 1000
        if not 0 <= now - self._noted < _MINUTE:
            self._noted = now
            with contextlib.suppress(OSError):  # it may be pruned earlier then
                os.utime(self.path.parent / "record.json", ns=(now * 1000, now * 1000))

    def is_in_use(self) -> bool:
        """Whether a program was given it within the last hour, and is taken to use it still."""
        return time.monotonic() - self.given_at < IN_USE

    def verify(self) -> bool:
        """Read all of it; some 20 ms. Afterwards `is_intact` holds, if this does."""
        self._identities = None
        before = _identities(self._files)
        if before is None or self.problem():
            return False
        self._identities = before
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
    """A directory in which a precompiled header is made; `close` removes it unless it was published.

    Attributes:
        path: the directory.
        file: a descriptor of the empty file, to be written.
    """

    def __init__(self, cache: Path) -> None:
        """Make the place.

        Raises:
            NoSpace, DiskError: it cannot be made; nothing is left.
        """
        self.path = new_name(cache, STAGING)
        self._is_published = self._has_files = False
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
        if not self._is_published:
            disk.remove_tree(self.path)

    def measure(self) -> tuple[str, int]:
        """The sha256 and the size of what was written.

        Raises:
            Vanished, DiskError: it cannot be read.
        """
        with disk.explained("measure the precompiled header", self.path):
            return _sha256(self.path / NAME), os.fstat(self.file).st_size

    def clear(self) -> None:
        """Make the file empty, to be written once more.

        Raises:
            Vanished, DiskError: it cannot be done.
        """
        with disk.explained("make a precompiled header", self.path):
            os.ftruncate(self.file, 0)
            os.lseek(self.file, 0, os.SEEK_SET)

    def add_files(self, prefix: Bytes = b"") -> None:
        """Write what programs are compiled with besides, and let every user's compiler read all of it.

        Args:
            prefix: the content of the prefix header; without any there is no such file.

        Raises:
            NoSpace, Vanished, DiskError: it cannot be written.
        """
        with disk.explained("keep the precompiled header", self.path.parent):
            if prefix:
                disk.write_new(self.path / PREFIX, prefix, sync=True)
            include = self.path / "include"
            include.mkdir()
            include.chmod(0o755)
            (include / "bpf").symlink_to(_LIBBPF)  # whether they are installed now or later
            self.path.chmod(0o755)
        self._has_files = True

    def publish(self, entry: Path, record: PchRecord, prefix: Bytes = b"") -> Pch:
        """Give it its name below the entry, in one step, after it has reached the disk.

        What had the name before is removed.

        Args:
            entry: the directory of the entry.
            prefix: as in `add_files`, which this does where it was not done.

        Raises:
            NoSpace, Vanished, DiskError: it cannot be kept.
        """
        if not self._has_files:
            self.add_files(prefix)
        with disk.explained("keep the precompiled header", self.path.parent):
            os.fsync(self.file)
            disk.write_new(self.path / "record.json", record.encode(), sync=True)
            parent = entry / "pch"
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
            target = parent / record.key
            if (old := move_to_trash(target)) is not None:
                disk.remove_tree(old)
            self.path.rename(target)
            disk.sync_directory(parent)
        self._is_published = True
        path = target / NAME
        return Pch(record, path, verified=True)


def load(entry: Path, *, remove_damaged: bool = True) -> dict[str, Pch]:
    """The precompiled headers of an entry at start, by key.

    None of them is known to be intact: each is verified before it is served. What is of another version, or
    cannot be read now, stays.

    Args:
        remove_damaged: whether what is damaged is removed, as it cannot be in use.
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
                raise Corrupt("it is not a directory")
            record, last_used = records.read(directory / "record.json", PchRecord.decode)
            if record.key != name or os.lstat(directory / NAME).st_size != record.bytes:
                raise Corrupt("it is not what was written")
        except records.OtherVersion:
            continue
        except (Corrupt, FileNotFoundError):
            if remove_damaged:
                disk.remove_tree(directory)
        except OSError:
            continue
        else:
            found[name] = Pch(record, directory / NAME, last_used=last_used)
    return found


def carry_over(old: Path, new: Path) -> dict[str, Pch]:
    """Link what was precompiled from an entry into the directory that is about to replace it.

    It is not moved, so that it is there at every moment. A link changes a file's ctime, so all are verified
    before they are served again.

    Args:
        old: the entry's directory, if there is one.
        new: what will have its name.

    Returns:
        What was carried over, by the names that it will have.

    Raises:
        OSError: it could not be written.
    """
    found = load(old, remove_damaged=False)
    for key, pch in found.items():
        target = new / "pch" / key
        disk.make_directory(target.parent, exist_ok=True)
        disk.make_directory(target)
        for source in sorted(pch.path.parent.rglob("*")):
            copy = target / source.relative_to(pch.path.parent)
            if source.is_symlink():
                copy.symlink_to(source.readlink())
            elif source.is_dir():
                disk.make_directory(copy)
            else:
                os.link(source, copy)
    return found


def _identities(paths: Iterable[Path]) -> tuple[FileIdentity, ...] | None:
    """The identities of files; None if one is not there."""
    try:
        found = [os.lstat(path) for path in paths]
    except OSError:
        return None
    return tuple(map(identity_of, found))


def _sha256(path: Path) -> str:
    with files.opened(path, follow=False) as (descriptor, status):
        return files.sha256(descriptor, status.st_size + 1)  # a file that grows is not read for ever
