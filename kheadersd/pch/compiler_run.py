# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs of a compiler on the headers of an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CompileFailed, KheadersError
from ..sandbox.command import Command
from ..sandbox.limits import why_failed
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cache.entry import Entry
    from ..sandbox.command import Finished, Run

FIRST_LINES = 5
"""How much of what a compiler complains about is in a message."""

_LONGEST_LINE = 1000  # characters; a path in the cache has 200 before the first word
# Some thousand names of headers. What is beyond is lost, and the canary fails.
_MAX_OUTPUT = 4 << 20
_FOR_EVER = 1e6  # seconds


class CompilerRun:
    """Runs compilers, each for a bounded time."""

    def __init__(self, run: Run, seconds: float | None) -> None:
        self._run = run
        self.limit(seconds)

    def limit(self, seconds: float | None) -> None:
        """Let each run take that long from now on; None for ever."""
        self._seconds = seconds or _FOR_EVER

    async def __call__(
        self,
        program: str,
        arguments: Sequence[str],
        entry: Entry,
        stdin: bytes,
        *,
        stdout: int | None = None,
        idle: bool = False,
    ) -> Finished:
        """Run a compiler, whatever its exit status.

        Raises:
            Timeout: it took too long.
            KheadersError: it cannot be started.
        """
        command = Command(
            [program, *arguments],
            COMPILE_ENVIRONMENT,
            self._seconds,
            stdin=stdin,
            max_output=_MAX_OUTPUT,
            stdout=stdout,
            idle=idle,
        )
        try:
            return await self._run(command)
        except OSError as error:
            raise KheadersError(
                f"cannot run {program} for {entry.release}: {error.strerror}; was it removed?"
            ) from error


def failure(finished: Finished, what: str) -> CompileFailed:
    """The error of a run that failed.

    Args:
        what: the beginning of the message.
    """
    lines = [printable(line.strip(), _LONGEST_LINE) for line in finished.stderr.splitlines()]
    lines = [line for line in lines if line]
    # The names of the files that led to an error come before it.
    errors = [line for line in lines if "error:" in line] or lines
    return CompileFailed(f"{what}: {why_failed(finished, '; '.join(errors[:FIRST_LINES]))}")
