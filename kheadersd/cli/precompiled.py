# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes an unmodified bcc tool compile with precompiled headers: see `kheadersd.precompiled`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import InvalidArgs
from ..precompiled import DROPPED, RELEASE, SESSION
from ..system.files import read_start
from ..system.root_owned import trusted_path

SITE = Path(__file__).parents[1] / "data/site"
"""What is put before a tool in PYTHONPATH."""

_PATH = "PYTHONPATH"
_MAX_FIRST_LINE = 256  # bytes, as the kernel reads of a script, execve(2)
_IGNORING = frozenset("IE")  # options of Python's that make it ignore PYTHONPATH


def environment(release: str, *, dropped: bool, session: bool, site: Path = SITE) -> dict[str, str]:
    """What is added to the environment of a tool.

    Args:
        release: which kernel's headers; "" for the running one's.
        dropped: whether the headers themselves are not in the cache any more, and are not to come back.
        session: whether the hook is to ask the session bus.

    Raises:
        InvalidArgs: others than root can write to what would be put before the tool.
    """
    try:
        trusted_path(site)
    except OSError as error:
        raise InvalidArgs(f"{site} cannot be used: {error.strerror}") from error
    added = {_PATH: os.pathsep.join(filter(None, (str(site), os.environ.get(_PATH, ""))))}
    wanted = {RELEASE: release, DROPPED: "1" * dropped, SESSION: "1" * session}
    return added | {name: value for name, value in wanted.items() if value}


def ignores_path(command: Sequence[str]) -> bool:
    """Whether a command is a Python that ignores PYTHONPATH, by its options or its first line's."""
    import shutil  # brings all the compressions with it

    words = list(command)
    found = shutil.which(words[0])
    if found is not None and not _is_python(words[0]):
        try:
            first, _, _ = read_start(found, _MAX_FIRST_LINE).partition(b"\n")
        except OSError:
            return False
        words = os.fsdecode(first[2:]).split() if first.startswith(b"#!") else []
    while words and not _is_python(words[0]):
        words.pop(0)  # env, and its options
    for word in words[1:]:
        if not word.startswith("-") or word.startswith("--"):
            return False
        for at, letter in enumerate(word[1:]):
            if letter in _IGNORING:
                return True
            if letter in "cmWX":  # what follows is its argument
                if letter in "cm" or at + 2 == len(word):
                    return False
                break
    return False


def _is_python(word: str) -> bool:
    return Path(word).name.startswith("python")
