# SPDX-License-Identifier: LGPL-2.1-or-later
"""Profiles: the headers that are precompiled together, and the kind of program that they are for.

A profile is a file ``<name>.toml``::

    description = "What it is good for, in one line."
    consumer = "clang-bpf"
    base = "headers"
    headers = ["linux/ptrace.h", "linux/sched.h"]
    flags = ["-mcpu=v3"]

``consumer`` is one of `CONSUMERS`, ``base`` one of "headers" (the default: a tree of kernel headers) and
"types" (a directory with a ``vmlinux.h``). ``flags`` may be left out.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgs, UnknownProfile
from ..events import Event
from ..system.files import UnfitFile, read_file
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..journal import Journal

CLANG_BPF, CLANG_HOST, BCC = "clang-bpf", "clang-host", "bcc"
CONSUMERS = (CLANG_BPF, CLANG_HOST, BCC)
"""What compiles the programs: clang for BPF, clang for the host and then for BPF, or libbcc."""

HEADERS, TYPES = "headers", "types"

DIRECTORIES = (Path(__file__).parent.parent / "data/profiles", Path("/etc/kheadersd/profiles"))
"""Those of the daemon, and the administrator's, which take precedence."""

MAX_HEADERS = 64
MAX_HEADER = 128  # characters of the name of a header
MAX_DEFINES = 16

_KEYS = frozenset(("description", "consumer", "base", "headers", "flags"))
_MAX_FILE = 64 << 10  # bytes; a profile is a page
_MAX_FLAGS = 32
_MAX_DESCRIPTION = 200
_MAX_NAME = 64
_SHOWN = 60  # characters of foreign text in a message

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}", re.ASCII)
_MACRO = re.compile(r"[A-Za-z_]\w*(?:=[\w.+-]*)?", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+/-]*\.h", re.ASCII)

# No flag may name a file: the key has the text of a flag, and not the content of files that it reads.
_FLAG = re.compile(
    r"-(?:[DU][A-Za-z_][ -~]*|W(?![alp],)[a-z0-9=+-]+|O[0-3sz]|g[a-z0-9-]*|std=[a-z0-9:]+"
    r"|m(?!llvm)[a-z0-9=.+-]+|f(?!plugin|pass-plugin|module|profile|syntax-only)[a-z0-9-]+)",
    re.ASCII,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """What is precompiled together.

    Attributes:
        name: of the file, without ".toml".
        description: one line.
        consumer: one of `CONSUMERS`.
        base: `HEADERS` or `TYPES`: what it is made from.
        headers: as in ``#include <…>``, in this order; at least one.
        flags: further arguments of the compiler, in this order.
        path: the file it was read from.
    """

    name: str
    description: str
    consumer: str
    base: str
    headers: tuple[str, ...]
    flags: tuple[str, ...]
    path: Path


class Profiles:
    """The profiles of this machine, read when they are first needed. Belongs to the event loop."""

    def __init__(self, journal: Journal, directories: Sequence[Path] = DIRECTORIES) -> None:
        self._journal = journal
        self._directories = directories
        self._known: Mapping[str, Profile] | None = None

    async def reload(self) -> None:
        """Read all profiles; files that are left out are logged."""
        found, problems = await in_thread(load, self._directories)
        for problem in problems:
            self._journal.report(Event.CONFIG_PROBLEM, problem)
        self._known = found

    async def find(self, name: str, headers: Sequence[str] = (), defines: Sequence[str] = ()) -> Profile:
        """The profile of that name, with ``headers`` instead of its own, if there are any, and more macros.

        Raises:
            UnknownProfile: there is none.
            InvalidArgs: as `custom`, or there are macros without headers.
        """
        if self._known is None:
            await self.reload()
        assert self._known is not None
        profile = self._known.get(name)
        if profile is None:
            shown = name if len(name) <= _MAX_NAME else name[:_MAX_NAME] + "…"
            raise UnknownProfile(f"there is no profile {shown!r}; there are {', '.join(sorted(self._known))}")
        if headers:
            return custom(profile, headers, defines)
        if defines:
            raise InvalidArgs("option 'defines' goes with a list of headers: name them in 'headers'")
        return profile

    def known(self, name: str) -> Profile | None:
        """The profile of that name, if it has been read."""
        return self._known.get(name) if self._known is not None else None


def load(directories: Sequence[Path]) -> tuple[dict[str, Profile], list[str]]:
    """Read all profiles. Blocking.

    Args:
        directories: later ones take precedence; they need not exist.

    Returns:
        The profiles by their names, and for each file that is left out a line that names it and says why. It
        hides no profile of the same name in another directory.
    """
    found: dict[str, Profile] = {}
    problems: list[str] = []
    for directory in directories:
        try:
            paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            problems.append(f"{directory}: cannot be read: {error.strerror}")
            continue
        for path in paths:
            try:
                found[path.stem] = _read(path)
            except OSError as error:
                problems.append(f"{path}: cannot be read: {error.strerror}")
            except ValueError as error:
                problems.append(f"{path}: {error}")
    return found, problems


def check_headers(names: Sequence[str]) -> tuple[str, ...]:
    """A list of headers from a caller or a file, checked.

    Raises:
        InvalidArgs: it is empty, has more than `MAX_HEADERS` items or one twice, or one is not the relative
            name of a header, as in ``#include <…>``, of at most `MAX_HEADER` characters.
    """
    if not 1 <= len(names) <= MAX_HEADERS:
        raise InvalidArgs(f"a list of headers has 1 to {MAX_HEADERS} names, and this one {len(names)}")
    for name in names:
        steps = name.split("/")
        if len(name) > MAX_HEADER or not _HEADER.fullmatch(name) or not {"", ".", ".."}.isdisjoint(steps):
            raise InvalidArgs(
                f"{name[:_SHOWN]!r} is not the name of a header; names are relative, as in linux/sched.h"
            )
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidArgs(f"the header {twice} is in the list more than once")
    return tuple(names)


def check_defines(macros: Sequence[str]) -> tuple[str, ...]:
    """A list of macros from a caller, as it is.

    Raises:
        InvalidArgs: there are more than `MAX_DEFINES`, or one is not NAME or NAME=VALUE, where the value has
            letters, digits and ``_.+-`` alone.
    """
    if len(macros) > MAX_DEFINES:
        raise InvalidArgs(f"there are more than {MAX_DEFINES} macros")
    for macro in macros:
        if len(macro) > MAX_HEADER or not _MACRO.fullmatch(macro):
            raise InvalidArgs(f"{macro[:_SHOWN]!r} is not a macro; those are as in MAX_PID=32768")
    return tuple(macros)


def custom(profile: Profile, headers: Sequence[str], defines: Sequence[str] = ()) -> Profile:
    """A profile with exactly these headers instead of its own, and more macros.

    Raises:
        InvalidArgs: as `check_headers` and `check_defines`, or the profile is made from types, which are one
            header.
    """
    if profile.base == TYPES:
        raise InvalidArgs(f"the profile {profile.name} is of vmlinux.h alone: it takes no list of headers")
    flags = (*profile.flags, *(f"-D{macro}" for macro in check_defines(defines)))
    return dataclasses.replace(profile, headers=check_headers(headers), flags=flags)


def _read(path: Path) -> Profile:
    """Read a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a profile; says why.
    """
    import tomllib

    if not _NAME.fullmatch(path.stem):
        raise ValueError("a profile is called by at most 64 of a to z, 0 to 9, _ and -")
    try:
        data = read_file(path, _MAX_FILE)
    except UnfitFile as error:
        raise ValueError(error.strerror) from None
    try:
        values = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is not TOML: {error}") from None
    if unknown := sorted(set(values) - _KEYS):
        raise ValueError(f"unknown key {unknown[0][:_SHOWN]!r}; there are {', '.join(sorted(_KEYS))}")
    return _profile(path, values)


def _profile(path: Path, values: dict[str, Any]) -> Profile:
    base = _one_of(values.get("base", HEADERS), "base", (HEADERS, TYPES))
    consumer = _one_of(values.get("consumer"), "consumer", CONSUMERS)
    if base == TYPES and consumer != CLANG_BPF:
        raise ValueError(f"types are for the consumer {CLANG_BPF}, not for {consumer}")
    description = values.get("description")
    if (
        not isinstance(description, str)
        or not description.isprintable()
        or len(description) > _MAX_DESCRIPTION
    ):
        raise ValueError(f"description has to be one line of at most {_MAX_DESCRIPTION} characters")
    try:
        headers = check_headers(_strings(values, "headers"))
    except InvalidArgs as error:
        raise ValueError(f"headers: {error.message}") from None
    return Profile(path.stem, description, consumer, base, headers, _flags(_strings(values, "flags")), path)


def _flags(flags: list[str]) -> tuple[str, ...]:
    if len(flags) > _MAX_FLAGS:
        raise ValueError(f"there are more than {_MAX_FLAGS} flags")
    for flag in flags:
        if len(flag) > MAX_HEADER or not _FLAG.fullmatch(flag):
            raise ValueError(
                f"the flag {flag[:_SHOWN]!r} cannot be given here: those are -D, -U, -W, -O, -g, -m, -f and "
                "-std=, without a space behind, that name no file"
            )
    return tuple(flags)


def _strings(values: dict[str, Any], key: str) -> list[str]:
    value = values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} has to be a list of strings")
    return value


def _one_of(value: Any, key: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise ValueError(f"{key} has to be one of {', '.join(choices)}, not {str(value)[:_SHOWN]!r}")
    return str(value)
