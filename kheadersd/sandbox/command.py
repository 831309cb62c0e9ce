# SPDX-License-Identifier: LGPL-2.1-or-later
"""A command that the daemon runs, its result, and what runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

MAX_OUTPUT = 64 << 10
"""How many bytes of each output are kept by default; the rest is read and dropped."""


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A command and its limits.

    Attributes:
        words: the program, looked up in the environment's PATH, and its arguments.
        environment: all of its environment.
        seconds: its time limit.
        directory: its working directory.
        stdin: its standard input; it need not read that.
        max_output: how many bytes of standard output and of standard error are kept, each.
        stdout: a descriptor, the caller's to close, that is its standard output; none of that is kept then.
        on_line: is given every line of standard output as it comes; none of it is kept then.
        idle: whether it runs at a low priority.
    """

    words: Sequence[str]
    environment: Mapping[str, str]
    seconds: float
    directory: Path = Path("/")
    stdin: bytes = b""
    max_output: int = MAX_OUTPUT
    stdout: int | None = None
    on_line: Callable[[str], None] | None = None
    idle: bool = False

    @property
    def program(self) -> str:
        """The name or path of the program."""
        return self.words[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The result of a command.

    Attributes:
        status: its exit status; of a command that a signal ended, the negative number of the signal.
        stdout: its standard output, as far as it was kept.
        stderr: its standard error, as far as it was kept.
    """

    status: int
    stdout: str
    stderr: str


Run = Callable[[Command], Awaitable[Finished]]
"""Runs a command until it has ended and no process holds its outputs any more.

However that ends, no process of the command's group is left.

Raises:
    Timeout: the command took longer than it may, and was killed.
    OSError: it could not be started.
    KheadersError: it could not be started in a unit.
"""
