"""Debian packages as a source of headers: the .deb container, and where in it the headers are.

A .deb is an ar archive whose member ``data.tar``, ``.gz``, ``.xz`` or ``.zst``, holds the files (deb(5)).
It is read where it lies; no dpkg is needed, and nothing of the package but its files is looked at.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..sources.source import Layer
from ..system.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from _typeshed import WriteableBuffer

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60
_AR_END = b"`\n"
_MAX_MEMBERS = 16  # three, or four with a signature; the rest is room
_DATA_MEMBER = re.compile(r"data\.tar(?:\.(?:gz|xz|zst))?")
_READ_BYTES = 1 << 16


class HeldFile:
    """A package that stays readable after its name is gone, for as long as somebody refers to it.

    The layers made from it refer to it, so the descriptor is closed, and the disk space given back, when the
    archive they belong to is dropped, however that happens.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``, which must be a regular file and not a symlink.

        Raises:
            OSError: it is something else, or cannot be opened.
        """
        self._descriptor = -1
        self.label = path.name
        self._descriptor, status = open_regular(path, follow=False)
        self.size = status.st_size

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give it back early, where no layer was made from it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes from ``offset``; from any thread, as no position is kept."""
        return os.pread(self._descriptor, size, offset)

    def sha256(self) -> str:
        """The digest of the whole file, in hex. Blocks for about 2 ms a MiB."""
        import hashlib

        digest = hashlib.sha256()
        offset = 0
        while piece := self.read_at(offset, _READ_BYTES):
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest()


class _Part(io.RawIOBase):
    """A piece of a held file, read as a file of its own. Closing it lets go of the file."""

    def __init__(self, file: HeldFile, offset: int, size: int) -> None:
        super().__init__()
        self._file: HeldFile | None = file
        self._offset = offset
        self._end = offset + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self._file is None:
            raise ValueError("read from a closed package")
        view = memoryview(buffer).cast("B")
        piece = self._file.read_at(self._offset, min(len(view), self._end - self._offset))
        view[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)

    def close(self) -> None:
        self._file = None
        super().close()


def find_data(file: HeldFile) -> tuple[int, int]:
    """Offset and length, in bytes, of the package's ``data.tar`` member, compressed as it is.

    Raises:
        Corrupt: this is no .deb, a member reaches beyond its end, or there is no such member.
    """
    if file.read_at(0, len(_AR_MAGIC)) != _AR_MAGIC:
        raise Corrupt(f"{file.label} is not a Debian package: it does not begin as an ar archive does")
    offset = len(_AR_MAGIC)
    for _ in range(_MAX_MEMBERS):
        if offset >= file.size:
            break
        name, size = _member(file, offset)
        offset += _AR_HEADER
        if size > file.size - offset:
            raise Corrupt(f"{file.label} is cut short: its member {name!r} reaches beyond the end")
        if _DATA_MEMBER.fullmatch(name):
            return offset, size
        offset += size + size % 2  # members begin at even offsets
    raise Corrupt(f"{file.label} has no member data.tar, plain or compressed with gzip, xz or zstd")


def _member(file: HeldFile, offset: int) -> tuple[str, int]:
    header = file.read_at(offset, _AR_HEADER)
    size = header[48:58].strip()
    if len(header) < _AR_HEADER or header[58:60] != _AR_END or not size.isdigit():
        raise Corrupt(f"{file.label} is damaged: the ar header at byte {offset} is not one")
    name = header[:16].decode("ascii", "replace").strip().removesuffix("/")
    return name, int(size)


def layer(file: HeldFile, place: Callable[[str], str | None]) -> Layer:
    """The files of the package as a layer, which keeps ``file`` open.

    Raises:
        Corrupt: see `find_data`.
    """
    offset, size = find_data(file)

    def open_data() -> io.BufferedReader:
        return io.BufferedReader(_Part(file, offset, size), _READ_BYTES)

    def chunks() -> Iterator[bytes]:
        from .decompress import chunks as decompressed

        return decompressed(open_data, file.label)

    return Layer(file.label, chunks, place)


def place_whole(package: str, srcarch: str) -> Callable[[str], str | None]:
    """`Layer.place` for a package that has the whole tree, as the kernel's own ``bindeb-pkg`` makes it."""
    return _place(package, srcarch, generated=True, written=True)


def place_generated(package: str, srcarch: str) -> Callable[[str], str | None]:
    """`Layer.place` for the flavour's package of a split tree: what its build generated.

    Debian's has nothing else below include/ and arch/*/include. Ubuntu's has symlinks into the common package
    for all the rest (include/linux -> ../../linux-headers-6.8.0-31/include/linux), and what they stand for
    is merged in from there.
    """
    return _place(package, srcarch, generated=True, written=False)


def place_written(package: str, srcarch: str) -> Callable[[str], str | None]:
    """`Layer.place` for the common package of a split tree: what the kernel's source has."""
    return _place(package, srcarch, generated=False, written=True)


def _place(package: str, srcarch: str, *, generated: bool, written: bool) -> Callable[[str], str | None]:
    """Map ``usr/src/<package>/x`` to ``x`` where x is in the directories kernel/gen_kheaders.sh takes.

    The two kinds never meet, as kbuild generates into directories that the source does not have: so no file
    is in two layers. Left out is include/config, thousands of empty files by which kbuild notices changes.
    """
    prefix = f"usr/src/{package}/"
    arch = f"arch/{srcarch}/include"
    made = ("include/generated", arch + "/generated")

    def place(name: str) -> str | None:
        if not name.startswith(prefix):
            return None
        rest = name[len(prefix) :]
        if not _is_below(rest, "include") and not _is_below(rest, arch):
            return None
        if _is_below(rest, "include/config"):
            return None
        is_made = _is_below(rest, made[0]) or _is_below(rest, made[1])
        return rest if (generated if is_made else written) else None

    return place


def _is_below(name: str, directory: str) -> bool:
    return name == directory or name.startswith(directory + "/")
