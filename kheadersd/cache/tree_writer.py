# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes a tree below a directory descriptor, and nothing anywhere else, whatever is in an archive."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..formats.tar import DIRECTORY, SYMLINK, Member
from ..system.disk import write_all
from ..system.printable import quoted
from .manifest import DIRECTORY_MODE, FILE_MODE, Item, PackedEntries, pack, pack_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..sources.source import Limits

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_A_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel's own limit, MAXSYMLINKS
_DIRECTORY = pack(Item(DIRECTORY))


class TreeWriter:
    """Writes files, directories and symlinks below an empty directory.

    A directory is only entered if it was made here, so that no symlink is ever followed; symlinks are only
    made by `make_links`. `OSError` of the file system passes through every method.

    Attributes:
        entries: what was made, by name, every directory before what is in it; grows with the tree.
        files: the number of regular files.
        blocks: blocks on disk: those of the files, and one for a directory.
        block_size: bytes in a block.
        current: the name that is or was last being written, for messages.
    """

    def __init__(self, directory_fd: int, limits: Limits) -> None:
        self._sha256 = hashlib.sha256
        self._empty = hashlib.sha256().digest()
        # A thread cannot set the umask for itself; where it takes away too much, modes are set one by one.
        self._inexact = bool(_umask() & (FILE_MODE | DIRECTORY_MODE))
        self._packed: dict[str, bytes] = {}
        self.entries = PackedEntries(self._packed)
        self._characters = 0
        self.files = 0
        self.blocks = 0
        self.block_size = os.fstatvfs(directory_fd).f_frsize
        self.current = ""
        self._label = ""
        self._limits = limits
        self._short = min(limits.max_component, limits.max_name) // 4
        self._top = directory_fd
        self._bytes = 0
        self._links: list[str] = []
        # Directories by name; the value says whether the present layer has it as a member.
        self._directories: dict[str, bool] = {"": False}
        # Neighbours in an archive are mostly of one directory, which is kept open.
        self._open_name = ""
        self._open_fd = directory_fd

    def begin_layer(self, label: str) -> None:
        """What follows is from the archive that messages call ``label``."""
        self._label = label
        self._directories = dict.fromkeys(self._directories, False)

    def check_name(self, name: str) -> None:
        """Check that a name stays inside and can be shown, whether or not it will be made.

        Raises:
            Corrupt: it is absolute, has "..", "." or empty components or characters that cannot be printed,
                or is too long or too deep.
        """
        parts = name.split("/")
        # No character has more than 4 bytes, so that most names need no closer look.
        if (
            name.isprintable()
            and "" not in parts
            and ".." not in parts
            and "." not in parts
            and len(parts) <= self._limits.max_depth
            and len(name) <= self._short
        ):
            return
        if problem := _name_problem(name, parts, self._limits):
            raise self.corrupt(name, problem)

    def add_file(self, name: str, member: Member) -> None:
        """Write a file.

        Raises:
            Corrupt: there is something of that name, its parent is no directory, or it exceeds the limits.
        """
        base = self._add_name(name)
        self._bytes += member.size
        if self._bytes > self._limits.max_bytes:
            raise self.corrupt(name, f"the files have more than {self._limits.max_bytes} bytes, the limit")
        digest = None
        fd = os.open(base, _NEW_FILE, FILE_MODE, dir_fd=self._open_fd)
        try:
            for piece in member.data:
                if digest is None:
                    digest = self._sha256(piece)  # nearly always all of the file
                else:
                    digest.update(piece)
                write_all(fd, piece)
            if self._inexact:
                os.fchmod(fd, FILE_MODE)
        finally:
            os.close(fd)
        self._packed[name] = pack_file(member.size, digest.digest() if digest else self._empty)
        self.files += 1
        self.blocks += -(-member.size // self.block_size)

    def add_directory(self, name: str) -> None:
        """Make a directory, unless an earlier layer or the name of a file implied it.

        Raises:
            Corrupt: the layer has it twice, there is a file of that name, or its parent is no directory.
        """
        listed = self._directories.get(name)
        if listed:
            raise self.corrupt(name, "it occurs twice")
        if listed is None:
            self._make_directory(name)
        self._directories[name] = True

    def add_link(self, name: str, target: str) -> None:
        """Remember a symlink for `make_links`.

        Raises:
            Corrupt: there is something of that name, its parent is no directory, or the target is absolute,
                empty, too long, or has characters that cannot be printed.
        """
        self._add_name(name)
        if not target or target[0] == "/" or not target.isprintable():
            raise self.corrupt(name, f"its target {quoted(target)} is not a relative path")
        if len(target.encode()) > self._limits.max_name:
            raise self.corrupt(
                name, f"its target {quoted(target)} has more than {self._limits.max_name} bytes"
            )
        self._count(name, target)
        self._packed[name] = pack(Item(SYMLINK, 0, target))
        self._links.append(name)

    def make_links(self, check: Callable[[], None]) -> None:
        """Make the symlinks, after checking every one of them.

        Args:
            check: called for each of them; what it raises passes through.

        Raises:
            Corrupt: one leads outside of the tree, nowhere, or in circles.
        """
        resolver = LinkResolver(self.entries)
        for name in self._links:
            check()
            try:
                resolver.resolve(name)
            except BadLink as bad:
                raise self.corrupt(name, f"its target {quoted(self.entries[name].content)} {bad}") from None
        for name in self._links:
            check()
            target = self.entries[name].content
            self.current = name
            parent, _, base = name.rpartition("/")
            self._enter(parent)
            os.symlink(target, base, dir_fd=self._open_fd)

    def close(self) -> None:
        """Close the descriptors that were opened here."""
        if self._open_fd != self._top:
            os.close(self._open_fd)
        self._open_name, self._open_fd = "", self._top

    def corrupt(self, name: str, problem: str) -> Corrupt:
        """The error for a member."""
        return Corrupt(f"{self._label} is damaged or unsafe at the member {quoted(name)}: {problem}")

    def _add_name(self, name: str) -> str:
        """Take a new name, enter its directory, and return its last component."""
        if name in self._packed:
            raise self.corrupt(name, "it occurs twice")
        if len(self._packed) >= self._limits.max_files:
            raise self.corrupt(name, f"the archive has more than {self._limits.max_files} files, the limit")
        self._count(name, name)
        parent, _, base = name.rpartition("/")
        if parent != self._open_name:
            if parent not in self._directories:
                self._make_directory(parent)
            self._enter(parent)
        self.current = name
        return base

    def _count(self, name: str, text: str) -> None:
        """Count a name, or what the symlink of that name points at."""
        self._characters += len(text) if text.isascii() else 4 * len(text)
        if self._characters > self._limits.max_names:
            raise self.corrupt(
                name, f"all names together have more than {self._limits.max_names} characters, the limit"
            )

    def _make_directory(self, name: str) -> None:
        entry = self.entries.get(name)
        if entry:
            raise self.corrupt(name, f"it is a {entry.kind} and a directory")
        parent = name.rpartition("/")[0]
        if parent not in self._directories:
            self._make_directory(parent)
        base = self._add_name(name)
        os.mkdir(base, DIRECTORY_MODE, dir_fd=self._open_fd)
        if self._inexact:
            os.chmod(base, DIRECTORY_MODE, dir_fd=self._open_fd)
        self._directories[name] = False
        self._packed[name] = _DIRECTORY
        self.blocks += 1

    def _enter(self, name: str) -> None:
        if name != self._open_name:
            self.close()
            if name:
                self._open_fd = os.open(name, _A_DIRECTORY, dir_fd=self._top)
                self._open_name = name


def _name_problem(name: str, parts: list[str], limits: Limits) -> str:
    """Why a name is refused, "" if it is not."""
    if not name.isprintable():
        return "the name has control characters"
    if name[:1] == "/":
        return "the name is absolute"
    if "" in parts:
        return "the name has an empty component"
    if ".." in parts or "." in parts:
        return "the name has a '.' or '..' component"
    if len(parts) > limits.max_depth:
        return f"the name has more than {limits.max_depth} components"
    if len(name.encode()) > limits.max_name:
        return f"the name has more than {limits.max_name} bytes"
    if any(len(part.encode()) > limits.max_component for part in parts):
        return f"a component of the name has more than {limits.max_component} bytes"
    return ""


def _umask() -> int:
    """The process's umask; all bits where the kernel (before 4.7) does not say."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o777


class BadLink(Exception):
    """A symlink does not lead to anything in the tree; the text says how, behind its target."""


class LinkResolver:
    """Follows the symlinks of a tree as the kernel does, each of them once.

    ".." is the parent of where a link has led, not of the link.
    """

    def __init__(self, entries: Mapping[str, Item]) -> None:
        self._entries = entries
        # Where a link leads, and how many links there are on the way.
        self._known: dict[str, tuple[str, int]] = {}

    def resolve(self, name: str, depth: int = 1) -> tuple[str, int]:
        """Where a link leads, "" for the top, and how many links there are on the way, itself included.

        Raises:
            BadLink: it leads outside of the tree, nowhere, or in circles.
        """
        if known := self._known.get(name):
            return known
        if depth > _MAX_LINKS:
            raise BadLink("leads in circles")
        at = name.rpartition("/")[0]
        links = 1
        for part in self._entries[name].content.split("/"):
            if at and self._entries[at].kind != DIRECTORY:
                raise BadLink("leads through a file")
            if part == "..":
                if not at:
                    raise BadLink("leads outside of the tree")
                at = at.rpartition("/")[0]
            elif part not in ("", "."):
                at = f"{at}/{part}" if at else part
                found = self._entries.get(at)
                if found is None:
                    raise BadLink("leads to nothing in the archive")
                if found.kind == SYMLINK:
                    at, more = self.resolve(at, depth + 1)
                    links += more
                    if links > _MAX_LINKS:
                        raise BadLink("leads in circles")
        self._known[name] = at, links
        return at, links
