# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work that callers share, threads for blocking functions, and tasks in the background."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable
from typing import Any, Protocol, TypeVar, cast

from ..errors import LimitsExceeded
from .priority import lower_priority

log = logging.getLogger(__name__)

T = TypeVar("T")


class Closable(Protocol):
    """Something that holds a resource."""

    def close(self) -> None:
        """Give it back. Blocking."""
        ...


C = TypeVar("C", bound=Closable)

PATIENCE = 2.0
"""Seconds that a cancelled caller waits for its thread before it gives the thread up."""

IDLE = "kheadersd-idle"
"""The name of a thread that waits for work."""

# Extraction, checking, removing and syncing: more of them at a time slow each other down.
_MOST_WORKING = 4
# Seconds after which a busy thread does not count any more, so that another may start.
_SLOW = 5.0
_LOOK_AGAIN = 1.0
_MOST_THREADS = 64
_MOST_LOST = 32


class Cancelled(Exception):
    """A function in a thread ended early because its event was set, see `in_thread`."""


class SharedWork:
    """At most one task for each key, whose result all callers get that ask for the key meanwhile."""

    def __init__(self) -> None:
        self._jobs: dict[Hashable, _Job] = {}
        self._winding_down: set[asyncio.Task[Any]] = set()

    def under_way(self, key: Hashable) -> bool:
        """Whether there is a task for ``key``, which a caller would join."""
        return key in self._jobs

    async def share(self, key: Hashable, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Join the task for ``key``, or start it, and return its result.

        When the last waiting caller is cancelled, so is the task. All waiting callers get its error.
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
                # The next caller starts a new task, while this one still cleans up.
                self._winding_down.add(job.task)
                job.task.add_done_callback(self._winding_down.discard)
                self._forget(key, job)
                job.task.cancel()
            del job  # an error's traceback leads here, and must not lead on to the error itself

    async def close(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        tasks = {job.task for job in self._jobs.values()} | self._winding_down
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, key: Hashable, job: _Job, task: asyncio.Task[Any]) -> None:
        self._forget(key, job)
        if not task.cancelled():
            task.exception()  # the callers have it, or do not wait any more

    def _forget(self, key: Hashable, job: _Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]


class _Job:
    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiters = 0


_all: weakref.WeakSet[Threads] = weakref.WeakSet()


class Threads:
    """Threads for blocking functions: a number of them work at a time, and one that hangs delays no other.

    A thread that was given up, or that is busy for more than 5 seconds, does not count: another takes its
    place, up to 64 threads. They do not keep the process from ending.
    """

    def __init__(self, most: int, *, stay: bool = False, idle_priority: bool = False) -> None:
        """
        Args:
            most: how many work at a time.
            stay: whether they wait for more work when there is none, instead of ending.
            idle_priority: whether they work at a low priority, as do the threads that they start.
        """
        self._most = most
        self._stay = stay
        self._idle_priority = idle_priority
        self._changed = threading.Condition()
        self._queue: collections.deque[_Call] = collections.deque()
        self._running: set[_Call] = set()
        self._idle = 0
        self._stop_at = float("inf")
        _all.add(self)

    def forget(self) -> None:
        """Start without threads, in a forked child, which has none of its parent's threads."""
        self._changed = threading.Condition()
        self._queue.clear()
        self._running.clear()
        self._idle = 0

    def stop_within(self, seconds: float) -> None:
        """Have cancelled callers wait for their threads until then at most: the process is about to end."""
        self._stop_at = time.monotonic() + seconds

    def hanging(self) -> list[str]:
        """For each thread that was given up and still runs, the function and the line where it is."""
        with self._changed:
            calls = [call for call in self._running if call.given_up]
        return [call.place() for call in calls]

    async def run(
        self,
        function: Callable[..., T],
        *args: object,
        cancelled: threading.Event | None = None,
        keep: Callable[[T], None] | None = None,
    ) -> T:
        """As `in_thread`."""
        call = _Call(function, args)
        try:
            while same := self._same_given_up(call):
                await asyncio.wait([same.done])
            self._submit(call)
            self._look_again(call)
            try:
                result = await asyncio.shield(call.done)
            except asyncio.CancelledError:
                if cancelled is not None:
                    cancelled.set()
                await self._wait_or_give_up(call)
                if keep is not None and call.done.done():
                    _keep_late(keep, call.done)
                elif keep is not None:
                    call.done.add_done_callback(functools.partial(_keep_late, keep))
                raise
            if keep is not None:
                keep(result)
            return cast("T", result)
        finally:
            if call.timer is not None:
                call.timer.cancel()
            del call  # an error's traceback leads here, and must not lead on to the error itself

    def _look_again(self, call: _Call) -> None:
        """Until a call has a thread, check regularly whether a thread may be started for it."""
        self._replace()
        if not call.began_at:
            call.timer = call.loop.call_later(_LOOK_AGAIN, self._look_again, call)

    def _same_given_up(self, call: _Call) -> _Call | None:
        """A call that was given up and still runs the same function with the same arguments."""
        with self._changed:
            return next((each for each in self._running if each.given_up and each.is_same(call)), None)

    def _submit(self, call: _Call) -> None:
        with self._changed:
            # A call that was given up while it waited for a thread may only just have begun.
            since = time.monotonic() - PATIENCE
            lost = [each for each in self._running if each.given_up and each.began_at <= since]
            if len(lost) < _MOST_LOST:
                self._queue.append(call)
                self._changed.notify()
                return
        raise LimitsExceeded(
            f"{len(lost)} threads of this program hang, one of them in {lost[0].place()}: "
            "remove the cause, which may be a file system that does not answer, and restart kheadersd"
        )

    async def _wait_or_give_up(self, call: _Call) -> None:
        end = min(time.monotonic() + PATIENCE, self._stop_at)
        while not call.done.done() and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([call.done], timeout=left)
        if not call.done.done():
            call.given_up = True
            self._replace()
            log.warning(
                "a thread does not end after its caller was cancelled, and is given up: %s", call.place()
            )

    def _replace(self) -> None:
        """Start threads for waiting calls, as many as are allowed."""
        with self._changed:
            now = time.monotonic()
            busy = sum(not call.given_up and now - call.began_at < _SLOW for call in self._running)
            there = len(self._running) + self._idle
            wanted = min(len(self._queue) - self._idle, self._most - busy - self._idle, _MOST_THREADS - there)
            self._idle += max(wanted, 0)
        for _ in range(wanted):
            try:
                threading.Thread(target=self._work, name=IDLE, daemon=True).start()
            except RuntimeError:  # too many threads in the system: the waiting call checks again
                with self._changed:
                    self._idle -= 1

    def _work(self) -> None:
        """Run calls, in a thread, which counts as idle when it starts and when it waits."""
        if self._idle_priority:
            lower_priority()
        thread = threading.current_thread()
        while (call := self._next()) is not None:
            thread.name = "kheadersd-work"
            call.run()
            thread.name = IDLE
            with self._changed:
                self._running.discard(call)
                self._idle += 1
            call.tell()
            del call

    def _next(self) -> _Call | None:
        """The next call, which is running from now on; None when the thread is to end."""
        with self._changed:
            while not self._queue:
                if not self._stay or self._idle > self._most:
                    self._idle -= 1
                    return None
                self._changed.wait()
            call = self._queue.popleft()
            self._idle -= 1
            self._running.add(call)
            call.begin()
            return call


class _Call:
    """A call of a function in a thread.

    Attributes:
        done: what the event loop waits for.
        began_at: as time.monotonic() has it, 0 while it waits for a thread.
        timer: of the next check for a thread.
        given_up: whether its caller has stopped waiting.
    """

    def __init__(self, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[Any] = self.loop.create_future()
        self.began_at = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.given_up = False
        self._function = function
        self._arguments = arguments
        self._thread = 0
        self._result: Any = None
        self._error: BaseException | None = None

    def is_same(self, other: _Call) -> bool:
        """Whether it is the same function with the same arguments, apart from events that cancel it."""
        return (
            self.loop is other.loop
            and self._function == other._function
            and len(self._arguments) == len(other._arguments)
            and all(
                one is two or isinstance(one, threading.Event) or (type(one) is type(two) and one == two)
                for one, two in zip(self._arguments, other._arguments, strict=True)
            )
        )

    def begin(self) -> None:
        self._thread = threading.get_ident()
        self.began_at = time.monotonic()

    def run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            # Without this frame, which leads to the future that will have the error.
            self._error = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)

    def tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self.loop.call_soon_threadsafe(self._settle)

    def place(self) -> str:
        """Which function, and where in it the thread is now."""
        name = getattr(self._function, "__qualname__", repr(self._function))
        frame = sys._current_frames().get(self._thread)
        return f"{name}, {frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else name

    def _settle(self) -> None:
        result, error = self._result, self._error
        self._result = self._error = None
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)
            self.done.exception()  # retrieved here, as a call that was given up has no caller
        del error  # as above


def _keep_late(keep: Callable[[T], None], done: asyncio.Future[T]) -> None:
    if not done.cancelled() and done.exception() is None:
        keep(done.result())


THREADS = Threads(_MOST_WORKING, stay=True)
"""The threads that `in_thread` uses by default."""

# A priority that was lowered cannot be raised again without privileges.
IDLE_THREADS = Threads(_MOST_WORKING, idle_priority=True)
"""Threads at a low priority, which the threads that they start inherit."""


async def in_thread(
    function: Callable[..., T],
    *args: object,
    cancelled: threading.Event | None = None,
    keep: Callable[[T], None] | None = None,
    threads: Threads = THREADS,
) -> T:
    """Run a blocking function in a thread.

    When the caller is cancelled, ``cancelled`` is set, so that the function can end early, and the
    cancellation waits until the function has ended and released what it holds. After 2 seconds the thread is
    given up, and the cancellation goes on. Until that thread ends, a caller with the same function and
    arguments waits for it.

    Args:
        keep: takes the result, on the event loop, also when the caller was cancelled meanwhile.
        threads: the threads to use.

    Raises:
        LimitsExceeded: too many threads that were given up still hang.
    """
    return await threads.run(function, *args, cancelled=cancelled, keep=keep)


@contextlib.asynccontextmanager
async def closed_at_end(make: Callable[..., C], *args: object) -> AsyncIterator[C]:
    """What ``make`` returns, closed when the block ends, or when the caller is cancelled while it is made.

    Both are done in threads.
    """
    made: list[C] = []
    try:
        yield await in_thread(make, *args, keep=made.append)
    finally:
        for each in made:
            await in_thread(each.close)


def hanging() -> list[str]:
    """As `Threads.hanging`, of all threads."""
    return [place for threads in _all for place in threads.hanging()]


def stop_within(seconds: float) -> None:
    """As `Threads.stop_within`, of all threads."""
    for threads in _all:
        threads.stop_within(seconds)


async def to_the_end(work: Awaitable[T], *, keep: Callable[[T], None] | None = None) -> T:
    """Return the result of ``work``, which a cancellation of the caller does not interrupt but waits for.

    Args:
        keep: takes the result, also when the caller was cancelled meanwhile.
    """
    future = asyncio.ensure_future(work)
    try:
        result = await asyncio.shield(future)
    except asyncio.CancelledError:
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


class Background:
    """Tasks in the background, which are referred to until they end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that `settle` waits for."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def settle(self) -> None:
        """Wait until all tasks have ended, also those that tasks have started."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        for task in self._tasks:
            task.cancel()
        await self.settle()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("work in the background failed", exc_info=error)


async def within(seconds: float | None, work: Awaitable[T], late: Callable[[], Exception]) -> T:
    """Return the result of ``work``; after so many seconds (None: never), cancel it and raise ``late()``.

    A TimeoutError that ``work`` raises, such as an OSError with ETIMEDOUT, is not taken for this limit.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise late() from None


def _forget_all() -> None:
    for threads in _all:
        threads.forget()


os.register_at_fork(after_in_child=_forget_all)
