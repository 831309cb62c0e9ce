# SPDX-License-Identifier: LGPL-2.1-or-later
"""A part of a file, or of memory, with bounds that no read exceeds."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from ..errors import Corrupt

if TYPE_CHECKING:
    import re
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

_PIECE = 1024 * 1024


class FileSlice:
    """The bytes ``start`` to ``start + size`` of an open file. It does not own the descriptor.

    Attributes:
        size: in bytes; as it was when this was made.
        label: what messages call it.
    """

    def __init__(self, descriptor: int, label: str, start: int = 0, size: int | None = None) -> None:
        self.size = os.fstat(descriptor).st_size if size is None else size
        self.label = label
        self._descriptor = descriptor
        self._start = start

    def at(self, offset: int, size: int) -> bytes:
        """Exactly so many bytes.

        Raises:
            Corrupt: they are not all there.
            OSError: the file cannot be read.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self._ends_early()
        data = os.pread(self._descriptor, size, self._start + offset)
        while len(data) < size:
            more = os.pread(self._descriptor, size - len(data), self._start + offset + len(data))
            if not more:
                raise self._ends_early()
            data += more
        return data

    def up_to(self, offset: int, size: int) -> bytes:
        """So many bytes, or as many as there are from ``offset``."""
        return self.at(min(offset, self.size), min(size, max(self.size - offset, 0)))

    def part(self, offset: int, size: int) -> FileSlice:
        """A part of this one.

        Raises:
            Corrupt: it is not wholly inside.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self._ends_early()
        return FileSlice(self._descriptor, self.label, self._start + offset, size)

    def find(self, pattern: re.Pattern[bytes], longest: int) -> Iterator[tuple[int, re.Match[bytes]]]:
        """Where ``pattern`` matches, and the match; a match may be given twice.

        Args:
            longest: how many bytes a match may have; longer ones may be missed.
        """
        offset = 0
        while offset < self.size:
            piece = self.up_to(offset, _PIECE + longest)
            for match in pattern.finditer(piece):
                yield offset + match.start(), match
            offset += _PIECE

    def _ends_early(self) -> Corrupt:
        return Corrupt(f"{self.label} is damaged: it ends before something that is said to be in it")


class MemorySlice(FileSlice):
    """Bytes that were read already."""

    def __init__(self, data: memoryview, label: str) -> None:
        self.size = len(data)
        self.label = label
        self._data = data

    def at(self, offset: int, size: int) -> bytes:
        """As `FileSlice.at`."""
        return bytes(self.part(offset, size)._data)

    def part(self, offset: int, size: int) -> MemorySlice:
        """As `FileSlice.part`."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise self._ends_early()
        return MemorySlice(self._data[offset : offset + size], self.label)


class SliceReader(io.RawIOBase):
    """A part of a `FileSlice` as a file of its own, which refers to the content until it is closed."""

    def __init__(self, content: FileSlice, offset: int = 0, size: int | None = None) -> None:
        super().__init__()
        self._content: FileSlice | None = content
        self._offset = offset
        self._end = content.size if size is None else offset + size

    def readable(self) -> bool:
        """True: a slice is read."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer``; the number of bytes."""
        if self._content is None:
            raise ValueError("read from a closed file")
        view = memoryview(buffer).cast("B")
        piece = self._content.up_to(self._offset, min(len(view), self._end - self._offset))
        view[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)

    def close(self) -> None:
        """Drop the content; a later read raises ValueError."""
        self._content = None
        super().close()
