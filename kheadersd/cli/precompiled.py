# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes an unmodified bcc tool compile with precompiled headers: see `kheadersd.precompiled`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidArgs
from ..precompiled import DROPPED, RELEASE, SESSION
from ..system.files import read_start
from ..system.root_owned import trusted_path

_PACKAGE = Path(__file__).parents[1]
_SITE = "data/site"  # what is put before a tool in PYTHONPATH
_RUN = (f"{_SITE}/**/*", "precompiled/**/*", "__init__.py", "__pycache__/__init__.*")
"""What runs in a tool, and what Python has compiled of it."""

_PATH = "PYTHONPATH"
_MAX_FIRST_LINE = 256  # bytes, as the kernel reads of a script, execve(2)
_IGNORING = frozenset("IES")  # options of Python's: without site, it imports no sitecustomize
_PYTHON = re.compile(r"python[0-9.]*", re.ASCII)
_ENV = "env"
_BEFORE = {_ENV: "uC", "nice": "n", "ionice": "cn"}
"""Commands that run another one, and their short options that take a value."""
_EMPTYING = ("-", "-i", "--ignore-environment", f"--unset={_PATH}", f"-u{_PATH}")


def environment(release: str, *, dropped: bool, session: bool, package: Path = _PACKAGE) -> dict[str, str]:
    """What is added to the environment of a tool.

    Args:
        release: which kernel's headers; "" for the running one's.
        dropped: whether the headers themselves are not in the cache any more, and are not to come back.
        session: whether the hook is to ask the session bus.
        package: the directory of kheadersd.

    Raises:
        InvalidArgs: others than root can write to what would be put before the tool.
    """
    site = package / _SITE
    try:
        for path in (site, *(path for pattern in _RUN for path in package.glob(pattern))):  # a millisecond
            trusted_path(path)
    except OSError as error:
        raise InvalidArgs(f"{site} cannot be used: {error.strerror}") from error
    added = {_PATH: os.pathsep.join(filter(None, (str(site), os.environ.get(_PATH, ""))))}
    wanted = {RELEASE: release, DROPPED: "1" * dropped, SESSION: "1" * session}
    return added | {name: value for name, value in wanted.items() if value}


def why_ignored(command: Sequence[str]) -> str:
    """Why a command does not look into PYTHONPATH, by its options or its first line's; "" if it may.

    ``env``, ``nice`` and ``ionice`` are followed to what they run.
    """
    words = list(command)
    while words and Path(words[0]).name in _BEFORE:
        words, why = _behind(words)
        if why:
            return why
    if not words:
        return ""
    if Path(words[0]).name == "sudo":
        return "sudo does not hand PYTHONPATH on (env_reset): let sudo run kheadersctl"
    found = _found(words[0])
    if found is not None and not _is_python(words[0]):
        try:
            first, _, _ = read_start(found, _MAX_FIRST_LINE).partition(b"\n")
        except OSError:
            return ""
        words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    while words and not _is_python(words[0]):
        words.pop(0)  # env, and its options
    return "its Python ignores PYTHONPATH (option -I, -E or -S)" if _ignores(words[1:]) else ""


def _behind(words: list[str]) -> tuple[list[str], str]:
    """What one of `_BEFORE` runs, and why that does not get PYTHONPATH; "" if it does."""
    command, rest = Path(words[0]).name, words[1:]
    while rest:
        word = rest[0]
        name, is_assigned, _ = word.partition("=")
        if word in _EMPTYING or (name == _PATH and is_assigned):
            return [], f"{words[0]} {word} takes PYTHONPATH from it"
        if not word.startswith("-") and not (is_assigned and command == _ENV):
            break
        rest.pop(0)
        if word == "--":
            break
        if word[:1] == "-" and len(word) == 2 and word[1] in _BEFORE[command] and rest:
            if word == "-u" and rest[0] == _PATH:
                return [], f"{words[0]} -u takes PYTHONPATH from it"
            rest.pop(0)
    return rest, ""


def _ignores(options: Sequence[str]) -> bool:
    """Whether a Python with these options ignores PYTHONPATH, or does not run what is found there."""
    rest = iter(options)
    for word in rest:
        if not word.startswith("-") or word.startswith("--") or word == "-":
            return False
        for at, letter in enumerate(word[1:]):
            if letter in _IGNORING:
                return True
            if letter in "cm":  # what follows is the program
                return False
            if letter in "WX":
                if at + 2 == len(word):
                    next(rest, None)
                break
    return False


def _found(command: str) -> str | None:
    """What would be run, as shutil.which() says, whose import brings all the compressions with it."""
    directories = [""] if "/" in command else os.get_exec_path()
    paths = (str(Path(directory, command)) for directory in directories)
    return next((path for path in paths if os.access(path, os.X_OK) and not Path(path).is_dir()), None)


def _is_python(word: str) -> bool:
    return _PYTHON.fullmatch(Path(word).name) is not None
