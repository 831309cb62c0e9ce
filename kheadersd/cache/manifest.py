# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was extracted: every name with its content, so that a tree can be compared with it later."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Corrupt
from ..formats.tar import DIRECTORY, FILE, SYMLINK
from ..system import files
from ..system.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FILE_MODE = 0o444
DIRECTORY_MODE = 0o755

MAX_PROBLEMS = 100
"""How many problems `compare` names one by one."""

MAX_ENCODED = 128 << 20
"""Bytes that are read of a manifest; that of the largest tree that is extracted has fewer."""

_HEADING = b"kheadersd manifest 1\n"
_MODES = {FILE: FILE_MODE, DIRECTORY: DIRECTORY_MODE}
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}
_LETTERS = {FILE: "f", DIRECTORY: "d", SYMLINK: "l"}
_BY_LETTER = {letter: kind for kind, letter in _LETTERS.items()}
_DIRECTORY_LINE = re.compile(rb"^d\t0\t\t(.++)$", re.MULTILINE)
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Unread(str):
    """A problem of `compare` that says nothing about the tree: a file could not be read at this moment."""

    __slots__ = ()


class Item(NamedTuple):
    """One name of a tree.

    Attributes:
        kind: `tarstream.FILE`, `DIRECTORY` or `SYMLINK`.
        size: of a file, bytes; else 0.
        content: the sha256 of a file in hex, the target of a symlink, "" for a directory.
    """

    kind: str
    size: int = 0
    content: str = ""


def pack(entry: Item) -> bytes:
    """An item in 65 to 80 bytes of memory, where an `Item` of a file takes some 220."""
    if entry.kind == FILE:
        return pack_file(entry.size, bytes.fromhex(entry.content))
    return b"d" if entry.kind == DIRECTORY else b"l" + entry.content.encode()


def pack_file(size: int, digest: bytes) -> bytes:
    """`pack` for a file, with its sha256 as bytes."""
    return b"f" + size.to_bytes(8, "big") + digest


def unpack(packed: bytes) -> Item:
    """What `pack` was given."""
    if packed[:1] == b"f":
        return Item(FILE, int.from_bytes(packed[1:9], "big"), packed[9:].hex())
    return Item(SYMLINK, 0, packed[1:].decode()) if packed[:1] == b"l" else Item(DIRECTORY)


class PackedEntries(Mapping[str, Item]):
    """Entries by name, for trees that may have 100,000 of them: each takes some 200 bytes and its name.

    Args:
        packed: by name, made by `pack`; not copied.
    """

    def __init__(self, packed: dict[str, bytes]) -> None:
        self._packed = packed

    def __getitem__(self, name: str) -> Item:
        return unpack(self._packed[name])

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """All names of a tree but its top.

    Attributes:
        entries: by relative name, every directory before what is in it. No name has a tab or a line break.
    """

    entries: Mapping[str, Item]

    def encode(self) -> bytes:
        """Lines of text; the last one has the number of entries and the sha256 of the lines before it."""
        text = io.BytesIO()
        text.write(_HEADING)
        text.writelines(
            f"{_LETTERS[kind]}\t{size}\t{content}\t{name}\n".encode()
            for name, (kind, size, content) in self.entries.items()
        )
        digest = hashlib.sha256(text.getbuffer()).hexdigest()
        text.write(_last_line(len(self.entries), digest))
        return text.getvalue()

    @classmethod
    def decode(cls, data: bytes) -> Manifest:
        """Read what `encode` wrote.

        Raises:
            Corrupt: it is damaged, cut short, or of another version.
        """
        end = data.rfind(b"\n", 0, -1) + 1
        packed: dict[str, bytes] = {}
        try:
            lines = io.BytesIO(data)
            if next(lines, b"") != _HEADING:
                raise ValueError
            while lines.tell() < end:
                letter, size, content, name = lines.readline()[:-1].decode().split("\t")
                packed[name] = pack(Item(_BY_LETTER[letter], int(size), content))
            if data[end:] != _last_line(len(packed), hashlib.sha256(memoryview(data)[:end]).hexdigest()):
                raise ValueError
        except (ValueError, KeyError, OverflowError):
            raise Corrupt("manifest: is damaged or of another version") from None
        return cls(PackedEntries(packed))


def directories(encoded: bytes) -> list[str]:
    """The names of all directories in what `Manifest.encode` returned; a millisecond for a whole kernel."""
    return [name.decode() for name in _DIRECTORY_LINE.findall(encoded)]


def _last_line(count: int, digest: str) -> bytes:
    return f"end\t{count}\t{digest}\n".encode()


def read(directory: Path | int, sha256: str) -> Manifest:
    """The manifest of an entry, given the entry's directory or a descriptor of it.

    Raises:
        Corrupt: it is not what was written.
        OSError: it cannot be read now.
    """
    name, fd = ("manifest", directory) if isinstance(directory, int) else (directory / "manifest", None)
    try:
        encoded = files.read_file(name, MAX_ENCODED, directory=fd, follow=False)
    except (FileNotFoundError, NotADirectoryError, files.UnfitFile) as error:
        raise Corrupt(f"manifest: cannot be read: {error.strerror}") from error
    if hashlib.sha256(encoded).hexdigest() != sha256:
        raise Corrupt("manifest: is not what was written, so that the files cannot be compared with it")
    return Manifest.decode(encoded)


def verify(directory: Path, sha256: str) -> list[str]:
    """Compare every file of an entry with its manifest; blocking, some 0.2 s.

    Returns:
        As `compare`.
    """
    try:
        manifest = read(directory, sha256)
    except Corrupt as error:
        return [error.message]
    except OSError as error:
        return [Unread(f"manifest: cannot be read: {error.strerror}")]
    return compare(directory / "tree", manifest)


def compare(tree: Path, manifest: Manifest) -> list[str]:
    """Read every file below ``tree`` and say how it differs from the manifest.

    Blocking: some 0.2 s. The tree may change meanwhile: what is seen is what is reported. Symlinks are never
    followed, nothing but regular files is opened for reading.

    Returns:
        at most 100 problems in plain words, then the number of the others; empty if there are none. An
        `Unread` among them is no difference.
    """
    problems: list[str] = []
    more = 0
    for problem in _problems(tree, manifest):
        if len(problems) < MAX_PROBLEMS:
            problems.append(problem)
        else:
            more += 1
    if more:
        problems.append(f"and {more} more")
    return problems


def _problems(tree: Path, manifest: Manifest) -> Iterator[str]:
    children: dict[str, list[str]] = {"": []}
    for name, entry in manifest.entries.items():
        children.setdefault(name.rpartition("/")[0], []).append(name)
        if entry.kind == DIRECTORY:
            children.setdefault(name, [])
    try:
        top = os.open(tree, _OPEN_DIRECTORY)
    except OSError as error:
        yield _problem(str(tree), error)
        return
    try:
        unreachable: set[str] = set()
        for directory, names in children.items():
            if directory.rpartition("/")[0] in unreachable:
                unreachable.add(directory)  # reported once, where it begins
                continue
            try:
                fd = os.open(directory or ".", _OPEN_DIRECTORY, dir_fd=top)
            except OSError as error:
                unreachable.add(directory)
                yield _problem(quoted(directory), error)
                continue
            try:
                yield from _problems_in(fd, directory + "/" if directory else "", names, manifest.entries)
            finally:
                os.close(fd)
    finally:
        os.close(top)


def _problems_in(fd: int, prefix: str, expected: Iterable[str], entries: Mapping[str, Item]) -> Iterator[str]:
    """The problems of one directory, without what is in its subdirectories."""
    if prefix and (problem := _mode_problem(os.fstat(fd), DIRECTORY)):
        yield f"{quoted(prefix[:-1])}: {problem}"
    for base in _listed(fd):
        if prefix + base not in entries:
            yield f"{quoted(prefix + base)}: extra, nothing of that name was extracted"
    for name in expected:
        entry = entries[name]
        if entry.kind == DIRECTORY:
            continue  # looked at when its turn comes
        base = name[len(prefix) :]
        try:
            problem = _file_problem(fd, base, entry) if entry.kind == FILE else _link_problem(fd, base, entry)
        except OSError as error:
            yield _problem(quoted(name), error)
            continue
        if problem:
            yield f"{quoted(name)}: {problem}"


def _listed(fd: int) -> Iterable[str]:
    with contextlib.suppress(OSError):  # removed this moment: then each of its files is missing
        return os.listdir(fd)
    return ()


def _mode_problem(status: os.stat_result, kind: str) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return "" if mode == _MODES[kind] else f"mode {mode:04o} instead of {_MODES[kind]:04o}"


def _file_problem(directory: int, name: str, entry: Item) -> str:
    before = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode):
        return _kind_problem(before, FILE)
    with files.opened(name, directory=directory, follow=False) as (descriptor, status):
        if status.st_size != entry.size:
            return f"changed, {status.st_size} bytes instead of {entry.size}"
        digest = files.sha256(descriptor, entry.size + 1)  # a file that grows is not read for ever
    if digest != entry.content:
        return "changed, the content is not what was extracted"
    return _mode_problem(status, FILE)


def _link_problem(directory: int, name: str, entry: Item) -> str:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        return _kind_problem(status, SYMLINK)
    target = os.readlink(name, dir_fd=directory)
    return (
        "" if target == entry.content else f"changed, leads to {quoted(target)}, not {quoted(entry.content)}"
    )


def _kind_problem(status: os.stat_result, expected: str) -> str:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special file")
    return f"wrong kind, a {kind} instead of a {expected}"


def _problem(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{name}: missing"
    if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
        # With O_DIRECTORY and O_NOFOLLOW a symlink, too, is "not a directory".
        return f"{name}: wrong kind, not a directory"
    return Unread(f"{name}: cannot be read: {error.strerror}")
