"""Work that is shared by all who ask for it, owned by one task, and given up when nobody waits any more."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar, cast

log = logging.getLogger(__name__)

T = TypeVar("T")

_IDLE_NICE = 15


class SharedWork:
    """At most one task for each key; everybody who asks meanwhile gets its result."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, _Job] = {}
        self._winding_down: set[asyncio.Task[Any]] = set()

    def under_way(self, key: Hashable) -> bool:
        """Whether asking for ``key`` now would join work that somebody else started."""
        return key in self._jobs

    async def share(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the work for ``key``, or start it.

        When the last of those who wait is cancelled, so is the work. Errors of the work reach all of them.
        """
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(asyncio.create_task(start()))
            job.task.add_done_callback(functools.partial(self._ended, key, job))
        job.waiters += 1
        try:
            return cast("T", await asyncio.shield(job.task))
        finally:
            job.waiters -= 1
            if not job.waiters and not job.task.done():
                # Whoever asks from now on starts anew, while this task still cleans up behind itself.
                self._winding_down.add(job.task)
                job.task.add_done_callback(self._winding_down.discard)
                self._forget(key, job)
                job.task.cancel()
            del job  # an error's traceback leads here, and must not lead on to the error itself

    async def close(self) -> None:
        """Cancel everything and wait until it has cleaned up behind itself."""
        tasks = {job.task for job in self._jobs.values()} | self._winding_down
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: Hashable, job: _Job, task: asyncio.Task[Any]) -> None:
        self._forget(key, job)
        if not task.cancelled():
            task.exception()  # those who waited have it; if they all left, nobody wants it

    def _forget(self, key: Hashable, job: _Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]


class _Job:
    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0


async def in_thread(
    function: Callable[..., T],
    *args: object,
    cancelled: threading.Event | None = None,
    keep: Callable[[T], None] | None = None,
    executor: Executor | None = None,
) -> T:
    """Run a blocking function in a thread, and never leave it behind.

    When the caller is cancelled, ``cancelled`` is set, so that the function can end early, and the
    cancellation goes on only once the thread is done: whatever the function holds has been given back.

    Args:
        keep: takes the result, on the event loop, also when the caller was cancelled while it was made.
        executor: whose thread it is; that of the event loop's by default.
    """
    future = asyncio.get_running_loop().run_in_executor(executor, function, *args)
    try:
        return await to_the_end(future, cancelled=cancelled, keep=keep)
    finally:
        del future  # as above


async def to_the_end(
    work: Awaitable[T],
    *,
    cancelled: threading.Event | None = None,
    keep: Callable[[T], None] | None = None,
) -> T:
    """Wait for what must not be left half-way. A cancellation of the caller goes on once it is done.

    Args:
        cancelled: is set when the caller is cancelled.
        keep: takes the result, also when the caller was cancelled while it was made.
    """
    future = asyncio.ensure_future(work)
    try:
        result = await asyncio.shield(future)
    except asyncio.CancelledError:
        if cancelled is not None:
            cancelled.set()
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled() and not future.exception() and keep is not None:
            keep(future.result())
        raise
    else:
        if keep is not None:
            keep(result)
        return result
    finally:
        del future, work  # as above


async def in_idle_thread(
    function: Callable[..., T],
    *args: object,
    cancelled: threading.Event | None = None,
    keep: Callable[[T], None] | None = None,
) -> T:
    """As `in_thread`, at a low priority: in a thread of its own, since a priority that was lowered cannot be
    raised again without privileges. The threads that it starts inherit it."""
    with ThreadPoolExecutor(1, "kheadersd-idle", _lower_priority) as executor:
        return await in_thread(function, *args, cancelled=cancelled, keep=keep, executor=executor)


def _lower_priority() -> None:
    # Of this thread alone, as Linux does it (setpriority(2), "C library/kernel differences"). A sandbox can
    # forbid it; then it is done at the priority of all else.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _IDLE_NICE)


class Background:
    """Tasks that nobody waits for, owned until they end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def settle(self) -> None:
        """Wait until everything that was started, and whatever that started, has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel everything, and wait until it has cleaned up behind itself."""
        for task in self._tasks:
            task.cancel()
        await self.settle()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("work in the background failed", exc_info=error)


async def within(seconds: float | None, work: Awaitable[T], late: Callable[[], Exception]) -> T:
    """Wait for ``work`` at most so long (None: for ever); then cancel it and raise what ``late`` makes."""
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        raise late() from None
