# SPDX-License-Identifier: LGPL-2.1-or-later
"""The libbcc that is installed: its version, and the headers in it.

Libbcc compiles by itself, with the clang libraries that it is linked to, and puts headers of its own before
every program. They are strings in its file, under names like /virtual/include/bcc/helpers.h.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgs, NotAvailable
from ..system.file_identity import are_unchanged, identities_at
from ..system.files import read_file
from ..system.root_owned import trusted_path
from ..system.shared_libraries import LOADER_CACHE, candidates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..system.file_identity import Identities

_NAME = "libbcc.so.0"
_MAX_SIZE = 256 << 20  # bytes; with LLVM inside it may have 100 MiB
_VERSION = re.compile(r"libbcc\.so\.([0-9]+\.[0-9]+)\.[0-9]+", re.ASCII)

# In libbcc's order, each with a line that is in no other string of the library.
_HEADERS = (
    ("/virtual/include/bcc/bpf.h", b"\n#define _UAPI__LINUX_BPF_H__\n"),
    ("/virtual/include/bcc/bpf_workaround.h", b"\n#ifndef __HAVE_BUILTIN_BSWAP16__\n"),
    ("/virtual/include/bcc/helpers.h", b"\n#define __BPF_HELPERS_H\n"),
)
_TEXT = frozenset((*b"\t\n", *range(ord(" "), 0x7F)))


@dataclasses.dataclass(frozen=True, slots=True)
class Libbcc:
    """A libbcc, as it was found.

    Attributes:
        path: absolute, without links.
        version: as in "0.26"; "" if the name of the file does not tell.
        digest: sha256 of the file, in hex.
        headers: (name, text) of those that it puts before a program, in this order.
        file: its `FileIdentity`, separated by colons, for who has loaded it; "" if that is not known.
    """

    path: Path
    version: str
    digest: str
    headers: tuple[tuple[str, str], ...]
    file: str = dataclasses.field(default="", compare=False)

    def __str__(self) -> str:
        return f"libbcc {self.version or self.path}"


class InstalledLibbcc:
    """Finds libbcc, and reads it again only after it has changed. For any thread.

    Args:
        places: its possible paths, the preferred first; None for where the dynamic loader finds it.
    """

    def __init__(self, places: Sequence[Path] | None = None) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._known: tuple[Identities, Libbcc] | None = None

    def installed(self) -> Libbcc:
        """The libbcc that is there now. Blocking: 10 ms, some microseconds if it has not changed.

        Raises:
            NotAvailable: there is none, it is of an unknown form, or other users than root can change it.
        """
        with self._lock:
            if self._known is None or not are_unchanged(self._known[0]):
                self._known = self._find()
            return self._known[1]

    def known(self) -> Libbcc | None:
        """The libbcc that was found, if it has not changed since; some microseconds."""
        known = self._known
        return known[1] if known is not None and are_unchanged(known[0]) else None

    def is_known(self, digest: str) -> bool:
        """Whether libbcc has this digest and has not changed since it was read; some microseconds."""
        known = self.known()
        return known is not None and known.digest == digest

    def is_current(self, digest: str) -> bool:
        """Whether libbcc has this digest. Blocking, as `installed`."""
        try:
            return self.installed().digest == digest
        except NotAvailable:
            return False

    def _find(self) -> tuple[Identities, Libbcc]:
        loader = identities_at((LOADER_CACHE,))  # first: what changes meanwhile is looked at again
        places = candidates(_NAME) if self._places is None else self._places
        for place in places:
            try:
                path, through = trusted_path(place)
                before = loader | identities_at((*places, *(step for step in through if not step.is_dir())))
                file = ":".join(map(str, before[str(path)] or ()))
                found = before, dataclasses.replace(_read(path), file=file)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise NotAvailable(f"{place} cannot be read: {error.strerror}") from error
            except InvalidArgs as error:
                raise NotAvailable(error.message) from error
            if not are_unchanged(before):
                raise NotAvailable(f"{path} was replaced while it was read; try again")
            return found
        raise NotAvailable(
            "libbcc is not installed, for which this profile is; the package is called libbpfcc on Debian "
            "and Ubuntu, libbcc0 on openSUSE, and bcc on most other distributions. "
            f"It was looked for as {', '.join(map(str, places))}"
        )


LIBBCC = InstalledLibbcc()
"""That of this machine."""


def _read(path: Path) -> Libbcc:
    data = read_file(path, _MAX_SIZE)
    headers = tuple((name, _string(data, line, path, name)) for name, line in _HEADERS)
    version = _VERSION.fullmatch(path.name)
    return Libbcc(path, version[1] if version else "", hashlib.sha256(data).hexdigest(), headers)


def _string(data: bytes, line: bytes, path: Path, name: str) -> str:
    """The text of a header. It begins at a new line, and ends with a zero byte, as literals of C++ do."""
    at = data.find(line)
    if at < 0 or data.find(line, at + 1) >= 0:
        raise NotAvailable(f"{path} does not have its header {name} where it can be found")
    start = at
    while start and data[start - 1] in _TEXT:
        start -= 1
    # What is before the string need not end with a zero byte.
    text = data[data.index(b"\n", start) : data.index(b"\0", at)]
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise NotAvailable(f"{path}: its header {name} is not text: {error}") from error
