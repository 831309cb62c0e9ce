# SPDX-License-Identifier: LGPL-2.1-or-later
"""The paths of compilers: which names and paths are accepted, and what they lead to."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgs, KheadersError, NotAvailable
from ..system.file_identity import Identities, are_unchanged, identities_at
from ..system.root_owned import trusted_path

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = re.compile(r"clang(?:-([0-9]{1,2}))?")
_LONGEST_PATH = 4095  # PATH_MAX without its end
_MOST_KNOWN = 64
# They run the compiler that a link to them is called, with a cache, or on machines, that are the user's.
_LAUNCHERS = frozenset(("ccache", "distcc", "icecc", "sccache"))


class _IsLauncher(InvalidArgs):
    """A path leads to a launcher of compilers.

    Attributes:
        through: all that it leads through.
    """

    def __init__(self, path: Path, through: list[Path]) -> None:
        super().__init__(
            f"{path} is not used: it leads to {through[-1]}, which runs compilers and is none. Install the "
            "compiler, or name the compiler itself, such as clang-16"
        )
        self.through = through


class CompilerPaths:
    """Finds the program that a name or path of a compiler leads to.

    Args:
        directories: those that compilers are in, absolute, or patterns such as /usr/lib/llvm-*/bin.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._patterns = tuple(directories)
        self._known: dict[str, tuple[Identities, Path]] = {}

    def known(self, wanted: str) -> Path | None:
        """What `locate` found, if nothing has changed since; below 0.1 ms."""
        known = self._known.get(wanted)
        return known[1] if known is not None and are_unchanged(known[0]) else None

    def locate(self, wanted: str) -> Path:
        """The path, without links, of the compiler of that name or at that path; for "" of the newest.

        Blocking, but only on the directories and what root put there: a path elsewhere is refused by its
        text. It could lead to a file system that never answers, and tell the caller what exists where the
        caller cannot look. Where a link leads to ccache, the compiler is the first one of the link's name in
        the directories, as it is for ccache itself.

        Raises:
            InvalidArgs: it is neither a name of clang nor an absolute path, it is in none of the directories,
                or other users than root can change it.
            NotAvailable: it is not installed.
        """
        identities = self._identities()  # first: after a change meanwhile, `known` returns None
        found, through = self._named(wanted) if wanted.startswith("/") else self._search(wanted)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[wanted] = {**identities, **identities_at(through)}, found
        return found

    def watched_directories(self) -> list[Path]:
        """The directories of compilers, and those in which more of them may appear."""
        return [*self._directories(), *map(_fixed, self._patterns)]

    def _named(self, wanted: str) -> tuple[Path, list[Path]]:
        if not wanted.isprintable() or len(os.fsencode(wanted)) > _LONGEST_PATH:
            raise InvalidArgs(
                "the path of the compiler is too long, or has characters that cannot be printed"
            )
        path = Path(wanted)
        # Also the path without links: the daemon tells callers that one, and records it.
        inside = any(_matches(path.parent, pattern) for pattern in self._patterns)
        if ".." in path.parts or not (inside or path.parent in self._real_directories()):
            raise InvalidArgs(f"{path} is not used: as it is written, it is in none of {self._places}")
        try:
            return self._accept(path)
        except _IsLauncher as launcher:
            if not _NAME.fullmatch(path.name):
                raise
            found, through = self._search(path.name)
            return found, [*launcher.through, *through]

    def _search(self, wanted: str) -> tuple[Path, list[Path]]:
        if wanted and not _NAME.fullmatch(wanted):
            raise InvalidArgs(
                f"{wanted!r} names no compiler: give a name like clang or clang-16, or an absolute path"
            )
        refused: KheadersError | None = None
        for name in (wanted,) if wanted else self._names():
            for directory in self._directories():
                try:
                    return self._accept(directory / name)
                except NotAvailable:
                    continue
                except InvalidArgs as error:
                    refused = refused or error
        raise refused or self._missing(wanted or "clang")

    def _accept(self, path: Path) -> tuple[Path, list[Path]]:
        try:
            found, through = trusted_path(path)
            status = found.stat()
        except OSError as error:
            raise NotAvailable(f"there is no compiler {path}: {error.strerror}") from error
        if found.name in _LAUNCHERS:
            raise _IsLauncher(path, through)
        leads = "" if found == path else f"leads to {found}, which "
        if found.parent not in self._real_directories():
            raise InvalidArgs(f"{path} is not used: it {leads}is in none of {self._places}")
        if not _NAME.fullmatch(found.name):
            raise InvalidArgs(f"{path} is not used: it {leads}has not the name of a clang")
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IXOTH:
            raise InvalidArgs(f"{path} is not used: it {leads}is no program that all users may run")
        return found, through

    def _missing(self, name: str) -> NotAvailable:
        others = ", ".join(self._names())
        hint = f"There are: {others}" if others else "Install the distribution's package clang"
        return NotAvailable(f"{name} is not installed in any of {self._places}. {hint}")

    @property
    def _places(self) -> str:
        return ", ".join(map(str, self._patterns))

    def _names(self) -> list[str]:
        """The names of all compilers, the newest first; a name without a version is the last."""
        names = {name for directory in self._directories() for name in _listed(directory)}
        return sorted(filter(_NAME.fullmatch, names), key=_number, reverse=True)

    def _directories(self) -> list[Path]:
        return [directory for pattern in self._patterns for directory in _matching(pattern)]

    def _real_directories(self) -> set[Path]:
        return {Path(os.path.realpath(directory)) for directory in self._directories()}

    def _identities(self) -> Identities:
        """Those of the directories that are watched."""
        return identities_at(self.watched_directories())


def _matching(pattern: Path) -> list[Path]:
    if "*" not in str(pattern):
        return [pattern]
    return sorted(Path("/").glob(str(pattern.relative_to("/"))))


def _matches(directory: Path, pattern: Path) -> bool:
    """Whether a directory, as it is written, matches a pattern."""
    return directory == pattern or ("*" in str(pattern) and directory.match(str(pattern)))


def _fixed(pattern: Path) -> Path:
    """The directory above the part of a path that is a pattern."""
    while "*" in str(pattern):
        pattern = pattern.parent
    return pattern


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _number(name: str) -> int:
    matched = _NAME.fullmatch(name)
    return int(matched[1] or -1) if matched else -1
