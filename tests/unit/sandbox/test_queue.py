"""How many commands a queue has run at a time."""

from __future__ import annotations

import asyncio

import pytest

from kheadersd.sandbox.command import Command, Finished
from kheadersd.sandbox.queue import RunQueue

COMMAND = Command(["clang"], {}, 1)


class Held:
    """A `Run` whose commands end when the test says so."""

    def __init__(self) -> None:
        self.running = 0
        self.end = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, command: Command) -> Finished:
        self.running += 1
        try:
            await self.end.wait()
            if self.error is not None:
                raise self.error
            return Finished(0, command.program, "")
        finally:
            self.running -= 1


async def _let_all_run() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_others_wait_for_their_turn() -> None:
    held = Held()
    queue = RunQueue(held, 2)
    tasks = [asyncio.create_task(queue(COMMAND)) for _ in range(5)]
    await _let_all_run()
    assert held.running == 2
    held.end.set()
    assert await asyncio.gather(*tasks) == [Finished(0, "clang", "")] * 5


async def test_a_cancelled_command_makes_room() -> None:
    held = Held()
    queue = RunQueue(held, 1)
    running, waiting, next_one = (asyncio.create_task(queue(COMMAND)) for _ in range(3))
    await _let_all_run()
    waiting.cancel()
    running.cancel()
    await asyncio.wait([running, waiting])
    await _let_all_run()
    assert held.running == 1
    held.end.set()
    assert (await next_one).status == 0


async def test_a_command_that_fails_makes_room() -> None:
    held = Held()
    queue = RunQueue(held, 1)
    held.error = OSError("no such program")
    held.end.set()
    for _ in range(2):
        with pytest.raises(OSError, match="no such program"):
            await asyncio.wait_for(queue(COMMAND), 5)
