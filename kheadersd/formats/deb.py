# SPDX-License-Identifier: LGPL-2.1-or-later
"""The container format of Debian packages.

A .deb is an ar archive; its member ``data.tar``, or ``data.tar`` with ``.gz``, ``.xz`` or ``.zst``, has the
files (deb(5)). No other member is read, and dpkg is not needed.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from typing import TYPE_CHECKING, Self

from ..errors import Corrupt
from ..system.files import open_regular
from ..system.printable import quoted
from .file_slice import FileSlice, SliceReader

if TYPE_CHECKING:
    from pathlib import Path


_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_AR_END = b"`\n"
_MAX_MEMBERS = 16  # real packages have three, or four with a signature
_DATA_MEMBER = re.compile(r"data\.tar(?:\.(?:gz|xz|zst))?")
_READ_BYTES = 1 << 16


class HeldFile(FileSlice):
    """A package that can be read after its name was removed, as long as there are references to it.

    Its layers refer to it: when the archive with them is dropped, the descriptor is closed, and the disk
    space is free.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``, which must be a regular file and not a symlink.

        Raises:
            OSError: it is something else, or cannot be opened.
        """
        self._descriptor = -1
        descriptor, _ = open_regular(path, follow=False)
        super().__init__(descriptor, path.name)

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the disk space early, if no layer needs it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def sha256(self) -> str:
        """The digest of the whole file, in hex. Blocks for about 2 ms a MiB."""
        digest = hashlib.sha256()
        offset = 0
        while piece := self.up_to(offset, _READ_BYTES):
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest()


def find_data(file: HeldFile) -> tuple[int, int]:
    """Offset and length, in bytes, of the package's ``data.tar`` member, compressed as it is.

    Raises:
        Corrupt: this is no .deb, a member reaches beyond its end, or there is no such member.
    """
    if file.up_to(0, len(_AR_MAGIC)) != _AR_MAGIC:
        raise Corrupt(f"{file.label} is not a Debian package: it does not begin as an ar archive does")
    offset = len(_AR_MAGIC)
    for _ in range(_MAX_MEMBERS):
        if offset >= file.size:
            break
        name, size = _member(file, offset)
        offset += _AR_HEADER
        if size > file.size - offset:
            raise Corrupt(f"{file.label} is cut short: its member {quoted(name)} reaches beyond the end")
        if _DATA_MEMBER.fullmatch(name):
            return offset, size
        offset += size + size % 2  # members begin at even offsets
    raise Corrupt(f"{file.label} has no member data.tar, plain or compressed with gzip, xz or zstd")


def open_part(file: HeldFile, offset: int, size: int) -> io.BufferedReader:
    """A part of the package as a file of its own, which keeps ``file`` open until it is closed."""
    return io.BufferedReader(SliceReader(file, offset, size), _READ_BYTES)


def _member(file: HeldFile, offset: int) -> tuple[str, int]:
    header = file.up_to(offset, _AR_HEADER)
    size = header[48:58].strip()
    if len(header) < _AR_HEADER or header[58:60] != _AR_END or not size.isdigit():
        raise Corrupt(f"{file.label} is damaged: the ar header at byte {offset} is not one")
    name = header[:16].decode("ascii", "replace").strip().removesuffix("/")
    return name, int(size)
