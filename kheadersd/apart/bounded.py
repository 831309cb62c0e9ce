"""Not too many commands at a time: each may take as much memory as its sandbox lets it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .process import MAX_OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .process import Finished, Run


class Bounded:
    """A `Run` that runs at most so many commands at a time; the others wait for their turn.

    The time that a command may take begins with its turn.
    """

    def __init__(self, run: Run, most: int) -> None:
        self._run = run
        self._turns = asyncio.Semaphore(most)

    async def __call__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        seconds: float,
        on_line: Callable[[str], None] | None = None,
        stdin: bytes = b"",
        stdout: int | None = None,
        most: int = MAX_OUTPUT,
    ) -> Finished:
        """As `process.run`."""
        async with self._turns:
            return await self._run(
                command,
                environment=environment,
                directory=directory,
                seconds=seconds,
                on_line=on_line,
                stdin=stdin,
                stdout=stdout,
                most=most,
            )
