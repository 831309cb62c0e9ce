"""Not too many commands at a time: each may take as much memory as its sandbox lets it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .child import Command, Finished, Run


class Bounded:
    """A `Run` that runs at most so many commands at a time; the others wait for their turn.

    The time that a command may take begins with its turn.
    """

    def __init__(self, run: Run, most: int) -> None:
        self._run = run
        self._turns = asyncio.Semaphore(most)

    async def __call__(
        self,
        command: Command,
        *,
        on_line: Callable[[str], None] | None = None,
        stdout: int | None = None,
    ) -> Finished:
        """As `process.run`."""
        async with self._turns:
            return await self._run(command, on_line=on_line, stdout=stdout)
