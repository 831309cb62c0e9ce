# SPDX-License-Identifier: LGPL-2.1-or-later
"""A limit on the commands that run at a time: each may take as much memory as its sandbox lets it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .command import Command, Finished, Run


class RunQueue:
    """A `Run` that has at most ``max_running`` commands run at a time; the others wait.

    The time limit of a command begins when it is started.
    """

    def __init__(self, run: Run, max_running: int) -> None:
        self._run = run
        self._turns = asyncio.Semaphore(max_running)

    async def __call__(self, command: Command) -> Finished:
        """As `Run`, after waiting for a turn."""
        async with self._turns:
            return await self._run(command)
