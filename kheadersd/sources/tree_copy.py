# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tree in place as an archive, for what is made from headers that must not change.

Any user can own the tree (of a kernel that was built at home), while the daemon may read everything, and
every user can read what it copies. Hence no link is followed to where the headers of a kernel are not,
nothing is copied that its owner keeps from others, and every file is checked once it is open.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Corrupt
from ..system.file_identity import identity_of, stored_identity
from ..system.tasks import Cancelled
from .build_tree import OF_BUILD, OF_SOURCE, Unusable, architecture
from .source import Archive, Layer, Tree, whole

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from ..host.host import Host
    from ..release import Release
    from .source import Limits

_PIECE = 1 << 17
_BLOCK = 512
_BETWEEN = " and "
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_NAME_IN_HEADER = 100
_PACKAGES = ("usr/src", "nix/store", "gnu/store", "opt")


def origin(tree: Tree) -> str:
    """What the journal calls a tree, and `is_gone` and `identity` find it by."""
    return _BETWEEN.join(str(path) for path in dict.fromkeys((tree.source_tree, tree.build_tree)))


def _places(origin: str) -> tuple[str, str]:
    """The trees that `origin` names; the second is "" if there is one."""
    # Both are absolute, so that a release with the words is none of the separator.
    source, between, build = origin.partition(_BETWEEN + "/")
    return source, f"/{build}" if between else ""


def is_gone(origin: str) -> bool:
    """Whether a tree is not there any more, at a glance; some 8 microseconds."""
    source, build = _places(origin)
    try:
        for name in OF_SOURCE:
            os.stat(f"{source}/{name}")  # noqa: PTH116 - a Path takes as long again
        for name in OF_BUILD:
            os.stat(f"{build or source}/{name}")  # noqa: PTH116
    except OSError:
        return True
    return False


def identity(host: Host, release: Release, origin: str, limits: Limits, cancelled: threading.Event) -> str:
    """The present identity of a tree: any change of what would be copied changes it. Blocking, some 0.1 s.

    Returns:
        The number of files and directories, and a digest over the name, inode, ctime and size of each. "" if
        the tree is gone.

    Raises:
        Corrupt: as `snapshot`.
        Cancelled: ``cancelled`` was set.
    """
    if is_gone(origin):
        return ""
    source, build = _places(origin)
    walk = _Walk(host, release, Tree(Path(source), Path(build or source)), limits, cancelled)
    stamp = _Stamp()
    for place, parts in walk.layers():
        for member in walk.members(place, parts):
            stamp.add(member)
    return stamp.text()


def snapshot(host: Host, release: Release, tree: Tree, limits: Limits, cancelled: threading.Event) -> Archive:
    """Read a tree once, to know what it is; blocking, some 0.5 s.

    Only what belongs to the kernel's architecture is taken. Of two trees, what was generated is taken from
    the build tree, and the rest from the source tree if it has it. Symlinks are followed inside the two
    trees and, since distributions' lead from one package to another, inside /lib/modules/<release> and where
    packages are installed (`_PACKAGES`). Left out are links that lead nowhere, and what editors leave beside
    a file. When the archive is extracted, everything is read again: if that is not what was read here, the
    last piece raises Corrupt.

    Raises:
        Corrupt: it cannot be read, exceeds the limits or was changed meanwhile; a link leads somewhere else;
            or something is kept from others by its mode.
        Cancelled: ``cancelled`` was set.
    """
    name = origin(tree)
    if name.count(_BETWEEN + "/") != (tree.source_tree != tree.build_tree):
        raise Corrupt(f"{name} cannot be copied: the path of a tree has {_BETWEEN!r} in it; rename it")
    anew = functools.partial(_Walk, host, release, tree, limits, cancelled)
    walk = anew()
    stamp = _Stamp()
    total = hashlib.sha256()
    layers = []
    size = 0
    for place, parts in walk.layers():
        digest, length = hashlib.sha256(), 0
        for piece in _tar(walk, place, parts, stamp):
            digest.update(piece)
            length += len(piece)
            if size + length > limits.max_bytes:
                raise Corrupt(f"{name} has more than {limits.max_bytes} bytes, the limit")
        size += length
        total.update(f"{digest.hexdigest()}\n".encode())
        layers.append(_layer(anew, place, parts, digest.hexdigest(), length))
    if identity(host, release, name, limits, cancelled) != stamp.text():
        raise _changed(name)
    return Archive(total.hexdigest(), layers, name, origin_stamp=stamp.text())


def _layer(anew: Callable[[], _Walk], place: Path, parts: list[str], digest: str, length: int) -> Layer:
    """The second reading, which has to give the same bytes."""

    def chunks() -> Iterator[bytes]:
        found = hashlib.sha256()
        for piece in _tar(anew(), place, parts, _Stamp()):
            found.update(piece)
            yield piece
        if found.hexdigest() != digest:
            raise _changed(str(place))

    return Layer(str(place), chunks, whole, length)


class _Member(NamedTuple):
    """A file or a directory: its name in the tree, its real path, and what it was when it was found."""

    name: str
    path: str
    status: os.stat_result


class _Stamp:
    """Adds up what tells one state of a tree from another."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._count = 0

    def add(self, member: _Member) -> None:
        self._digest.update(os.fsencode(f"{member.name}\0{stored_identity(member.status)}\n"))
        self._count += 1

    def text(self) -> str:
        return f"{self._count}:{self._digest.hexdigest()}"


class _Walk:
    """Goes through what is copied of a tree, in the same order whatever the file system."""

    def __init__(
        self, host: Host, release: Release, tree: Tree, limits: Limits, cancelled: threading.Event
    ) -> None:
        self._host = host
        self._tree = tree
        self._limits = limits
        self._cancelled = cancelled
        self._found = 0
        try:
            arch = architecture(tree.build_tree)
        except Unusable as unusable:
            raise Corrupt(f"{origin(tree)} cannot be copied: {unusable.message}") from None
        self._of_architecture = f"arch/{arch}/include"
        self._generated = ("include/generated", "include/config", f"{self._of_architecture}/generated")
        self._allowed = [tree.source_tree, tree.build_tree]
        for path in (*map(host.path, _PACKAGES), *host.modules_directories(release)):
            with contextlib.suppress(OSError, RuntimeError):
                self._allowed.append(host.resolve(path))

    def layers(self) -> Iterator[tuple[Path, list[str]]]:
        """Each tree, and which parts of it are taken."""
        for place in dict.fromkeys((self._tree.source_tree, self._tree.build_tree)):
            parts = ("include", self._of_architecture)
            yield place, [part for part in parts if (place / part).is_dir()]

    def members(self, place: Path, parts: list[str]) -> Iterator[_Member]:
        """What is in some parts of a tree, every directory before what is in it."""
        for part in parts:
            followed = self._follow(f"{place}/{part}")
            if followed is not None:
                yield from self._below(place, part, followed[0], (followed[0],))

    def _is_taken(self, place: Path, name: str) -> bool:
        """Whether a name is taken from one of two trees, and not from the other."""
        source, build = self._tree.source_tree, self._tree.build_tree
        if source == build:
            return True
        if any(name == part or name.startswith(f"{part}/") for part in self._generated):
            return place == build
        return place == source or self._follow(f"{source}/{name}") is None

    def _below(self, place: Path, name: str, path: str, above: tuple[str, ...]) -> Iterator[_Member]:
        with _opened(path, os.O_DIRECTORY) as fd:
            itself = _Member(name, path, os.fstat(fd))
            with os.scandir(fd) as found:
                some = itertools.islice(found, self._limits.max_files + 1)
                entries = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in some)
        if len(entries) > self._limits.max_files:
            raise self._too_many()
        yield self._checked(itself)
        for base, known in entries:
            child, status = f"{path}/{base}", known
            if _is_left_behind(base):
                continue
            if stat.S_ISLNK(status.st_mode):
                followed = self._follow(child)
                if followed is None:
                    continue
                child, status = followed
            if not stat.S_ISDIR(status.st_mode):
                if self._is_taken(place, f"{name}/{base}"):
                    yield self._checked(_Member(f"{name}/{base}", child, status))
            elif child in above:
                raise Corrupt(f"{path}/{base} cannot be copied: it leads in circles, to {child}")
            elif f"{name}/{base}" not in self._generated or self._is_taken(place, f"{name}/{base}"):
                yield from self._below(place, f"{name}/{base}", child, (*above, child))

    def _checked(self, member: _Member) -> _Member:
        if self._cancelled.is_set():
            raise Cancelled
        self._found += 1
        if self._found > self._limits.max_files:
            raise self._too_many()
        if member.name.count("/") >= self._limits.max_depth:
            raise Corrupt(f"{member.path} is more than {self._limits.max_depth} directories deep, the limit")
        mode = member.status.st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise Corrupt(f"{member.path} cannot be copied: it is neither a file nor a directory")
        readable = 0o005 if stat.S_ISDIR(mode) else 0o004
        if mode & readable != readable:
            raise Corrupt(
                f"{member.path} is not copied to where every user can read it, as not every user can now: "
                "make it readable for all, or remove it"
            )
        return member

    def _too_many(self) -> Corrupt:
        return Corrupt(f"{origin(self._tree)} has more than {self._limits.max_files} files, the limit")

    def _follow(self, path: str) -> tuple[str, os.stat_result] | None:
        """Where a link really leads, None if nowhere."""
        try:
            real = self._host.resolve(Path(path))
            status = os.lstat(real)
        except (OSError, RuntimeError):  # the latter is Python's for a loop, before 3.13
            return None
        if not any(real.is_relative_to(place) for place in self._allowed):
            raise Corrupt(
                f"{path} leads to {real}, where no headers of this kernel are: it is not followed, and the "
                "tree cannot be copied without it"
            )
        return str(real), status


def _is_left_behind(name: str) -> bool:
    """Whether a file is an editor's: a swap file, a lock, a backup. No header of the kernel is called so."""
    return name.startswith((".", "#")) or name.endswith("~")


@contextlib.contextmanager
def _opened(path: str, flags: int = 0) -> Iterator[int]:
    """Open what is really at a path: a directory above it can have been replaced by a link since.

    Raises:
        Corrupt: something of the sort was done, or it cannot be read.
    """
    try:
        fd = os.open(path, _READ | flags)
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}; was it changed meanwhile?") from error
    try:
        if os.readlink(f"/proc/self/fd/{fd}") != path:  # noqa: PTH115 - exactly the kernel's text
            raise _changed(path)
        yield fd
    except OSError as error:
        raise Corrupt(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(fd)


def _changed(path: str) -> Corrupt:
    return Corrupt(f"{path} was changed while it was read; ask again")


def _tar(walk: _Walk, place: Path, parts: list[str], stamp: _Stamp) -> Iterator[bytes]:
    """A layer: the same bytes for the same files, whatever their times and owners are."""
    waiting = bytearray()
    for member in walk.members(place, parts):
        stamp.add(member)
        is_file = stat.S_ISREG(member.status.st_mode)
        waiting += _headers(member.name, member.status.st_size if is_file else 0, is_file=is_file)
        for piece in _content(member) if is_file else ():
            waiting += piece
            if len(waiting) >= _PIECE:
                yield bytes(waiting)
                waiting.clear()
        waiting += bytes(-member.status.st_size % _BLOCK if is_file else 0)
    yield bytes(waiting) + bytes(2 * _BLOCK)


def _content(member: _Member) -> Iterator[bytes]:
    left = member.status.st_size
    with _opened(member.path) as fd:
        while left and (piece := os.read(fd, min(left, _PIECE))):
            left -= len(piece)
            yield piece
        if left or identity_of(os.fstat(fd)) != identity_of(member.status):
            raise _changed(member.path)


def _headers(name: str, size: int, *, is_file: bool) -> bytes:
    """What precedes a member: a ustar header (POSIX.1-2017, pax), with GNU's extension for a long name."""
    encoded = os.fsencode(name)
    before = b""
    if len(encoded) > _MAX_NAME_IN_HEADER:
        before = _header(b"././@LongLink", b"L", len(encoded)) + encoded + bytes(-len(encoded) % _BLOCK)
    return before + _header(encoded[:_MAX_NAME_IN_HEADER], b"0" if is_file else b"5", size)


def _header(name: bytes, kind: bytes, size: int) -> bytes:
    owner = b"0000644\0" + 2 * b"0000000\0"
    start = name.ljust(100, b"\0") + owner + b"%011o\0%011o\0" % (size, 0)
    end = (kind + bytes(100) + b"ustar\00000").ljust(_BLOCK - 156, b"\0")
    # The checksum is taken with its own field full of spaces.
    return start + b"%06o\0 " % (sum(start) + 8 * ord(" ") + sum(end)) + end
