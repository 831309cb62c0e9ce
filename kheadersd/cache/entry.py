# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry of the cache: its record on disk, and what is remembered of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import time
from typing import TYPE_CHECKING

from ..errors import InvalidArgs
from ..release import Release, escape, parse_release, unescape
from ..system import disk
from . import manifest, records
from .integrity import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from .integrity import Integrity
    from .pch_files import Pch

Bytes = bytes  # a record has a field of that name

_VERSION = 3
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"(.+)-([0-9a-f]{64})", re.ASCII)
_MAX_FILES = 2**32  # a D-Bus "u"
_MINUTE = 60_000_000  # microseconds


HEADERS, TYPES = "headers", "types"
"""The kinds of entries: trees of headers, and a vmlinux.h made from a kernel's BTF."""


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What is known of an extraction; kept as entry.json.

    Attributes:
        kind: `HEADERS` or `TYPES`.
        digest: sha256 of the archive, or of the BTF, 64 hex digits.
        root: of the host that it came from, "/" for the machine itself.
        source: the name of the source it came from.
        origin: the file or packages it came from.
        origin_stamp: the identity of that file on disk when it was read; "" if it has none.
        build_id: the kernel build it belongs to, in hex; "" if that is not known.
        files: how many regular files it has.
        bytes: the space on disk that the tree takes.
        extracted_at: microseconds since the epoch.
        randomised: whether the kernel has its structures' members in a random order that headers do not tell.
        headers_kept: False if only what the PCHs that were made from it still need is there.
        btf: sha256 of the BTF that types were made from, 64 hex digits; "" of headers.
        boot_id: the boot in which it was made. `Staging.publish` sets it.
        manifest_sha256: of the file "manifest". `Staging.publish` sets it.
    """

    release: Release
    digest: str
    root: str
    source: str
    origin: str
    origin_stamp: str
    build_id: str
    files: int
    bytes: int
    extracted_at: int
    kind: str = HEADERS
    randomised: bool = False
    headers_kept: bool = True
    btf: str = ""
    boot_id: str = ""
    manifest_sha256: str = ""

    @property
    def name(self) -> str:
        """The name of the entry's directory."""
        return entry_name(self.release, self.digest)

    def encode(self) -> Bytes:
        """The record as JSON, for its file."""
        return records.encode(self, _VERSION)

    @classmethod
    def decode(cls, data: Bytes) -> Record:
        """Read a record.

        Raises:
            records.OtherVersion: it is one of another version.
            ValueError: it is no record; the message says what is wrong.
        """
        record = records.decode(cls, data, _VERSION)
        try:
            parse_release(record.release)
        except InvalidArgs:
            raise records.bad_value("release", record.release) from None
        if record.files >= _MAX_FILES:
            raise records.bad_value("files", record.files)
        if record.kind not in (HEADERS, TYPES):
            raise records.bad_value("kind", record.kind)
        for name in ("digest", "manifest_sha256"):
            if not _DIGEST.fullmatch(value := getattr(record, name)):
                raise records.bad_value(name, value)
        if record.btf and not _DIGEST.fullmatch(record.btf):
            raise records.bad_value("btf", record.btf)
        return record


def entry_name(release: Release, digest: str) -> str:
    """The name of an entry's directory; at most 195 characters."""
    return f"{escape(release)}-{digest}"


def is_entry_name(name: str) -> bool:
    """Whether a directory of this name is meant to be an entry."""
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    try:
        unescape(match[1])
    except InvalidArgs:
        return False
    return True


@dataclasses.dataclass(slots=True, eq=False, repr=False)
class Entry:
    """A tree in the cache, complete since it appeared. Methods that say "blocking" are for threads.

    Attributes:
        record: what is known of its extraction.
        directory: its directory, named `name`; what is made from the tree is kept there too.
        path: the tree itself, which callers get.
        inode: of the directory, so that an entry made anew under the same name is not mistaken for this one.
        integrity: notices changes of the tree.
        last_used: microseconds since the epoch, right to a minute.
        pchs: what was precompiled from it, by key.
        is_dropping_headers: whether its headers are about to be dropped, so that no caller is given them.
        is_on_trial: whether what it has is not yet known to be enough; it is not served then.
        given_at: when a program was last given its headers, seconds on the monotonic clock; -inf if none was.
            Of an entry that is found at start, its last use, since what was given then may still be in use.
        is_durable: whether all of it is known to be on the disk.
        is_damaged: whether something is known to be wrong with it: it stays for those who lease it.
    """

    record: Record
    directory: Path
    inode: int
    integrity: Integrity
    last_used: int
    name: str = dataclasses.field(init=False)
    path: Path = dataclasses.field(init=False)
    pchs: dict[str, Pch] = dataclasses.field(default_factory=dict)
    is_durable: bool = False
    is_damaged: bool = False
    is_dropping_headers: bool = False
    is_on_trial: bool = False
    given_at: float = -math.inf

    def __post_init__(self) -> None:
        self.name = self.record.name
        self.path = self.directory / "tree"

    @property
    def release(self) -> Release:
        """The kernel release."""
        return self.record.release

    @property
    def bytes(self) -> int:
        """The space on disk of the tree and of all that was made from it."""
        return self.record.bytes + sum(pch.record.bytes for pch in self.pchs.values())

    @property
    def has_headers(self) -> bool:
        """Whether the tree is whole, and stays so."""
        return self.record.headers_kept and not self.is_dropping_headers

    @property
    def used_at(self) -> float:
        """When a program was last given its headers or what was precompiled from them, as `given_at`."""
        return max([self.given_at, *(pch.given_at for pch in self.pchs.values())])

    def is_intact(self) -> bool:
        """Whether it is still there and, as far as `Integrity` can tell, as it was made; microseconds."""
        return not self.is_damaged and not self.is_on_trial and self.integrity.is_unchanged()

    def touch(self, now: int | None = None) -> int:
        """Note that it is used.

        Args:
            now: microseconds since the epoch.

        Returns:
            The last use, which moves, in memory and on the disk, at most once a minute.
        """
        if now is None:
            now = time.time_ns() // 1000
        # A clock that was set back counts as a new minute too.
        if not 0 <= now - self.last_used < _MINUTE:
            self.last_used = now
            set_last_used(self.directory, now)
        return self.last_used

    def write_record(self, record: Record) -> None:
        """Replace the record on the disk, in one step, and not in memory; blocking.

        Raises:
            NoSpace, Vanished, DiskError: the old record is still there, if the entry is.
        """
        with disk.explained("rewrite the record of the entry", self.directory):
            disk.replace_file(self.directory / "entry.json", record.encode())
        set_last_used(self.directory, self.last_used)

    def sync(self) -> None:
        """Wait until the entry is on the disk; blocking, some 0.2 s.

        Raises:
            NoSpace: the disk turned out to be full only now.
            Vanished: the entry is not there any more.
            DiskError: the disk failed.
        """
        with disk.explained("sync the entry to the disk", self.directory):
            disk.sync_file_system(self.directory)

    def mark_durable(self) -> bool:
        """Mark an entry that was synced, on the disk and not in memory; blocking, some 50 ms.

        The caller holds the entry's lock: nothing else may change what is on the disk of it meanwhile.

        Returns:
            False if files are missing: a program removed some while it was made, and it is damaged.

        Raises:
            As `sync`.
        """
        with disk.explained("sync the entry to the disk", self.directory):
            count, tree_fingerprint = fingerprint(self.path)
            disk.check_inode(os.lstat(self.directory), self.inode)
            if count != self.record.files:
                return False
            mark = self.directory / "durable"
            mark.unlink(missing_ok=True)
            disk.write_new(mark, self.integrity.encode(tree_fingerprint), sync=True)
            disk.sync_directory(self.directory)
            disk.sync_directory(self.directory.parent)
        return True

    def verify(self) -> list[str]:
        """Compare every file with what was extracted; blocking, some 0.2 s.

        Returns:
            What is wrong, a sentence each; empty if the entry is intact.
        """
        return manifest.verify(self.directory, self.record.manifest_sha256)

    def __repr__(self) -> str:
        return f"<Entry {self.name}>"


def set_last_used(directory: Path, microseconds: int) -> None:
    """Note on the disk when an entry was last used.

    A failure does no harm: only the order in which entries are pruned depends on it.
    """
    with contextlib.suppress(OSError):
        os.utime(directory / "entry.json", ns=(microseconds * 1000, microseconds * 1000))
