"""An entry of the cache: its record on disk, and what is remembered of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgs
from ..release import Release, escape, parse_release, unescape

if TYPE_CHECKING:
    from pathlib import Path

    from .pch_files import Pch
    from .seal import Seal

Bytes = bytes  # a record has a field of that name

_VERSION = 3
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"(.+)-([0-9a-f]{64})", re.ASCII)
_MAX_COUNT = 2**32
_MAX_NUMBER = 2**64


class OtherVersion(ValueError):
    """A record that another version of the daemon wrote."""


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
        boot_id: the boot in which it was made. `Cache.publish` fills it in.
        manifest_sha256: of the file "manifest". `Cache.publish` fills it in.
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
    boot_id: str = ""
    manifest_sha256: str = ""

    @property
    def name(self) -> str:
        """The name of the entry's directory."""
        return entry_name(self.release, self.digest)

    def encode(self) -> Bytes:
        values = {"version": _VERSION, **dataclasses.asdict(self)}
        return json.dumps(values, indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, data: Bytes) -> Record:
        """Read a record.

        Raises:
            OtherVersion: it is one of another version.
            ValueError: it is no record; the message says what is wrong.
        """
        values = decode_record(data, _VERSION)
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(f"missing or unknown keys: {', '.join(sorted(names ^ set(values)))}")
        for name in names:
            _check(name, values[name])
        return cls(**values)


def decode_record(data: bytes, version: int) -> dict[str, Any]:
    """The values of a record, without its version.

    Raises:
        OtherVersion: it is one of another version.
        ValueError: it is no record.
    """
    values = json.loads(data.decode())
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    found = values.pop("version", None)
    if type(found) is int and found != version:
        raise OtherVersion(f"its version is {found}, not {version}")
    if found != version:
        raise ValueError(f"its version is {found!r}, not {version}")
    return values


def _check(name: str, value: Any) -> None:
    if name in ("files", "bytes", "extracted_at"):
        limit = _MAX_COUNT if name == "files" else _MAX_NUMBER
        good = type(value) is int and 0 <= value < limit
    elif name in ("headers_kept", "randomised"):
        good = isinstance(value, bool)
    elif name == "kind":
        good = value in (HEADERS, TYPES)
    elif name in ("digest", "manifest_sha256"):
        good = isinstance(value, str) and _DIGEST.fullmatch(value) is not None
    else:
        good = isinstance(value, str)
    if good and name == "release":
        try:
            parse_release(value)
        except InvalidArgs:
            good = False
    if not good:
        raise ValueError(f"{name} cannot be {str(value)[:80]!r}")


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


class Entry:
    """A tree in the cache, complete since it appeared.

    Attributes:
        record: what is known of its extraction.
        directory: its directory, named `name`; whatever is made from the tree is kept there too.
        path: the tree itself, which callers get.
        inode: of the directory, so that an entry made anew under the same name is not mistaken for this one.
        seal: notices disturbances.
        last_used: microseconds since the epoch, right to a minute.
        pchs: what was precompiled from it, by key.
        reducing: whether its headers are about to go, so that nobody is given them any more.
        on_trial: whether it is not known yet that what it has is enough; it is not handed out then.
        given_at: when a program was last given its headers, seconds on the monotonic clock; -inf if none was.
            Of an entry that is found at start, its last use, since what was given then may still be in use.
        durable: whether it is known to be on the disk as it should be.
        damaged: whether something is known to be wrong with it: it is only there for those who lease it.
    """

    __slots__ = (
        "damaged",
        "directory",
        "durable",
        "given_at",
        "inode",
        "last_used",
        "name",
        "on_trial",
        "path",
        "pchs",
        "record",
        "reducing",
        "seal",
    )

    def __init__(
        self, record: Record, directory: Path, inode: int, seal: Seal, *, last_used: int, durable: bool
    ) -> None:
        self.record = record
        self.name = record.name
        self.directory = directory
        self.path = directory / "tree"
        self.inode = inode
        self.seal = seal
        self.last_used = last_used
        self.pchs: dict[str, Pch] = {}
        self.durable = durable
        self.damaged = False
        self.reducing = False
        self.on_trial = False
        self.given_at = -math.inf

    @property
    def release(self) -> Release:
        return self.record.release

    @property
    def bytes(self) -> int:
        """The space on disk of the tree and of all that was made from it."""
        return self.record.bytes + sum(pch.record.bytes for pch in self.pchs.values())

    @property
    def has_headers(self) -> bool:
        """Whether the tree is whole, and stays so."""
        return self.record.headers_kept and not self.reducing

    def __repr__(self) -> str:
        return f"<Entry {self.name}>"


def set_last_used(directory: Path, microseconds: int) -> None:
    """Note on the disk when an entry was last used.

    Failures do no harm: only the order in which entries leave depends on it.
    """
    with contextlib.suppress(OSError):
        os.utime(directory / "entry.json", ns=(microseconds * 1000, microseconds * 1000))
