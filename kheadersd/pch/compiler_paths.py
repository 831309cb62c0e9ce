"""Where compilers are: names and paths, and which of them are accepted."""

from __future__ import annotations

import fnmatch
import itertools
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


class Places:
    """Finds the file that is meant by a compiler's name or path.

    Args:
        directories: in which compilers are, absolute; they may be patterns, as /usr/lib/llvm-*/bin.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._patterns = tuple(directories)
        self._known: dict[str, tuple[Identities, Path]] = {}

    def known(self, wanted: str) -> Path | None:
        """What `locate` found, if nothing has changed since; in less than a tenth of a millisecond."""
        known = self._known.get(wanted)
        return known[1] if known is not None and are_unchanged(known[0]) else None

    def locate(self, wanted: str) -> Path:
        """The file, without links, of the compiler of that name or at that path; for "" of the newest.

        Blocks, but only on the directories and what root put there: a path is refused by its text before
        anything looks at it. Whoever asks could have made it lead to a file system that never answers, and
        would learn what exists where he cannot look.

        Raises:
            InvalidArgs: it is neither a plain name of clang's nor an absolute path; or not in one of the
                directories; or not root's alone.
            NotAvailable: it is not installed.
        """
        stamps = self._stamps()  # first: what changes meanwhile is looked at again
        found, through = self._named(wanted) if wanted.startswith("/") else self._search(wanted)
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[wanted] = {**stamps, **identities_at(through)}, found
        return found

    def _named(self, wanted: str) -> tuple[Path, list[Path]]:
        if not wanted.isprintable() or len(os.fsencode(wanted)) > _LONGEST_PATH:
            raise InvalidArgs("what was given for a compiler is no path of a program")
        path = Path(wanted)
        # Also as a compiler calls itself that was found by a link: those who remember it ask by that.
        inside = any(_matches(path.parent, pattern) for pattern in self._patterns)
        if ".." in path.parts or not (inside or path.parent in self._real_directories()):
            raise InvalidArgs(f"{path} is not used: as it is written, it is in none of {self._places}")
        return self._accept(path)

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
        leads = "" if found == path else f"leads to {found}, which "
        if found.parent not in self._real_directories():
            raise InvalidArgs(f"{path} is not used: it {leads}is in none of {self._places}")
        if not _NAME.fullmatch(found.name):
            raise InvalidArgs(f"{path} is not used: it {leads}has not the name of a clang")
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & stat.S_IXOTH:
            raise InvalidArgs(f"{path} is not used: it {leads}is no program that everybody may run")
        return found, through

    def _missing(self, name: str) -> NotAvailable:
        others = ", ".join(self._names())
        hint = f"There are: {others}" if others else "Install the distribution's package clang"
        return NotAvailable(f"{name} is not installed in any of {self._places}. {hint}")

    @property
    def _places(self) -> str:
        return ", ".join(map(str, self._patterns))

    def _names(self) -> list[str]:
        """All names that there are, the newest first; what has no number in its name is the last."""
        names = {name for directory in self._directories() for name in _listed(directory)}
        return sorted(filter(_NAME.fullmatch, names), key=_number, reverse=True)

    def _directories(self) -> list[Path]:
        return [directory for pattern in self._patterns for directory in _matching(pattern)]

    def _real_directories(self) -> set[Path]:
        return {Path(os.path.realpath(directory)) for directory in self._directories()}

    def _stamps(self) -> Identities:
        """Of the directories, and those in which more of them may appear."""
        above = [_fixed(pattern) for pattern in self._patterns]
        return identities_at((*self._directories(), *above))


def _matching(pattern: Path) -> list[Path]:
    if "*" not in str(pattern):
        return [pattern]
    return sorted(Path("/").glob(str(pattern.relative_to("/"))))


def _matches(directory: Path, pattern: Path) -> bool:
    """Whether a directory is, as it is written, one of those that a pattern stands for."""
    if "*" not in str(pattern):
        return directory == pattern
    pairs = zip(directory.parts, pattern.parts, strict=False)
    return len(directory.parts) == len(pattern.parts) and all(itertools.starmap(fnmatch.fnmatchcase, pairs))


def _fixed(pattern: Path) -> Path:
    """The directory in front of what is a pattern."""
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
