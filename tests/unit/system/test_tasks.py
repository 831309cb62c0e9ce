"""Shared work: one task a key, errors for all, nothing left when everybody leaves."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.errors import LimitsExceeded
from kheadersd.system import tasks as work_module
from kheadersd.system.tasks import Background, SharedWork, Threads, in_thread, within
from tests.support.clients import eventually
from tests.support.running import REPOSITORY


async def test_those_who_ask_at_the_same_time_share_one_piece_of_work() -> None:
    work, started = SharedWork(), 0

    async def job() -> int:
        nonlocal started
        started += 1
        await asyncio.sleep(0.01)
        return started

    assert await asyncio.gather(*(work.share("k", job) for _ in range(50))) == [1] * 50
    assert await work.share("k", job) == 2
    assert not work.under_way("k")


async def test_an_error_reaches_everybody() -> None:
    work = SharedWork()

    async def job() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    results = await asyncio.gather(*(work.share("k", job) for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3


async def test_one_of_two_may_leave_and_the_work_goes_on() -> None:
    work, release = SharedWork(), asyncio.Event()

    async def job() -> str:
        await release.wait()
        return "done"

    first, second = (asyncio.create_task(work.share("k", job)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await second == "done"
    assert first.cancelled()


async def test_work_that_nobody_waits_for_is_cancelled_and_a_newcomer_starts_anew() -> None:
    work, log = SharedWork(), []

    async def job() -> None:
        log.append("start")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            log.append("cleaned up")
            raise

    first = asyncio.create_task(work.share("k", job))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(work.share("k", job))
    await asyncio.sleep(0.05)
    assert log == ["start", "start", "cleaned up"]
    await work.close()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert log == ["start", "start", "cleaned up", "cleaned up"]


async def test_a_cancelled_thread_is_waited_for() -> None:
    stop, ended = threading.Event(), threading.Event()

    def blocking() -> None:
        stop.wait(5)
        time.sleep(0.02)
        ended.set()

    task = asyncio.create_task(in_thread(blocking, cancelled=stop))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


class Hang:
    """Threads that hang in a read of a pipe without a byte, until the end of the test."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        self.threads = Threads(4)

    def read(self) -> bytes:
        return os.read(self.reader, 1)

    def read_for(self, whom: object, stop: threading.Event) -> bytes:  # noqa: ARG002
        return self.read()

    def start(self, count: int) -> list[asyncio.Task[bytes]]:
        return [
            asyncio.create_task(self.threads.run(self.read_for, object(), threading.Event()))
            for _ in range(count)
        ]

    def release(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._writer)

    async def begun(self, count: int) -> None:
        await eventually(
            lambda: sum(thread.name == "kheadersd-work" for thread in threading.enumerate()) >= count
        )


@pytest.fixture
def hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hang]:
    for name in ("PATIENCE", "_SLOW", "_LOOK_AGAIN"):
        monkeypatch.setattr(work_module, name, 0.1)
    hang = Hang()
    yield hang
    hang.release()
    os.close(hang.reader)


async def test_a_thread_that_does_not_end_is_given_up(hang: Hang) -> None:
    """Its result, should there ever be one, is kept all the same."""
    kept: list[bytes] = []
    task = asyncio.create_task(hang.threads.run(hang.read, keep=kept.append))
    await hang.begun(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kept == []
    (place,) = hang.threads.hanging()
    assert "Hang.read" in place
    assert __file__ in place
    hang.release()
    await eventually(lambda: kept)
    assert kept == [b""]
    assert hang.threads.hanging() == []


async def test_within_holds_whatever_the_thread_does(hang: Hang) -> None:
    with pytest.raises(KeyError):
        await asyncio.wait_for(
            within(0.1, hang.threads.run(hang.read), lambda: KeyError("late")), work_module.PATIENCE + 20
        )


@pytest.mark.parametrize("cancelled", [False, True])
async def test_threads_that_hang_hold_up_nobody(hang: Hang, cancelled: bool) -> None:
    """Be they given up, or does somebody still wait for them."""
    tasks = hang.start(4)
    await hang.begun(4)
    if cancelled:
        for task in tasks:
            task.cancel()
    assert await asyncio.gather(*(hang.threads.run(os.getpid) for _ in range(20))) == [os.getpid()] * 20
    hang.release()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_not_more_threads_work_at_a_time_than_may(hang: Hang) -> None:
    most = now = 0
    lock = threading.Lock()

    def busy() -> None:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1

    await asyncio.gather(*(hang.threads.run(busy) for _ in range(40)))
    assert 1 < most <= 4


async def test_there_is_a_bound_to_the_threads_that_hang(hang: Hang) -> None:
    """Beyond it nothing is begun, and who asks is told what hangs."""
    for batch in range(8):
        tasks = hang.start(4)
        await hang.begun(4 * (batch + 1))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    with pytest.raises(LimitsExceeded, match=r"32 threads .* Hang\.read"):
        await hang.threads.run(os.getpid)
    hang.release()
    await eventually(lambda: not hang.threads.hanging())
    assert await hang.threads.run(os.getpid) == os.getpid()


async def test_calls_that_were_given_up_in_the_queue_do_not_hang(
    hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They take their turn later, and count as hanging only once they had time to end."""
    monkeypatch.setattr(work_module, "_SLOW", 100.0)
    first, later = threading.Event(), threading.Event()

    def wait(gate: threading.Event, number: int) -> bool:
        return gate.wait(60)

    begun = [asyncio.create_task(hang.threads.run(wait, first, number)) for number in range(4)]
    await hang.begun(4)
    queued = [asyncio.create_task(hang.threads.run(wait, later, number)) for number in range(40)]
    await asyncio.sleep(0)
    for task in queued:
        task.cancel()
    await asyncio.wait(queued)
    monkeypatch.setattr(work_module, "PATIENCE", 100.0)
    first.set()
    await asyncio.gather(*begun)
    # Behind all that were queued, and then beside them.
    assert [await hang.threads.run(os.getpid) for _ in range(2)] == [os.getpid()] * 2
    assert len(hang.threads.hanging()) == 40
    later.set()
    await eventually(lambda: not hang.threads.hanging())


async def test_what_hangs_is_not_begun_again(hang: Hang) -> None:
    """Or each request for the same would take another thread."""
    stop = threading.Event()
    task = asyncio.create_task(hang.threads.run(hang.read_for, "a", stop, cancelled=stop))
    await hang.begun(1)
    task.cancel()
    await asyncio.wait([task])
    same = asyncio.create_task(hang.threads.run(hang.read_for, "a", threading.Event()))
    left = asyncio.create_task(hang.threads.run(hang.read_for, "a", threading.Event()))
    other = asyncio.create_task(hang.threads.run(hang.read_for, "b", threading.Event()))
    await hang.begun(2)
    assert len(hang.threads._running) == 2
    left.cancel()
    await asyncio.wait([left])
    hang.release()
    assert (await same, await other) == (b"", b"")


async def test_what_waits_for_a_thread_is_done_although_its_caller_has_left(hang: Hang) -> None:
    """It may be what gives something back."""
    tasks = hang.start(4)
    await hang.begun(4)
    done = threading.Event()
    waiting = asyncio.create_task(hang.threads.run(done.set))
    await asyncio.sleep(0)
    waiting.cancel()
    hang.release()
    await asyncio.gather(waiting, *tasks, return_exceptions=True)
    await eventually(done.is_set)


_LEFT_BEHIND = """\
import asyncio, os, threading
from kheadersd.system import tasks

async def main():
    reader, writer = os.pipe()
    task = asyncio.create_task(tasks.in_thread(os.read, reader, 1))
    while not tasks.THREADS._running:
        await asyncio.sleep(0.01)
    tasks.stop_within(0.1)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
print("ended", len(tasks.hanging()))
"""


def test_a_thread_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LEFT_BEHIND],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "ended 1\n"


async def test_what_a_cancelled_thread_made_is_kept_before_the_cancellation_goes_on(hang: Hang) -> None:
    kept: list[bytes] = []
    task = asyncio.create_task(hang.threads.run(hang.read, keep=kept.append))
    await hang.begun(1)
    task.cancel()
    hang.release()
    task.add_done_callback(lambda _: kept.append(b"cancelled"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kept == [b"", b"cancelled"]


async def test_within_raises_what_it_is_told() -> None:
    with pytest.raises(KeyError):
        await within(0.01, asyncio.sleep(5), lambda: KeyError("late"))


async def test_within_takes_no_other_timeout_for_its_own() -> None:
    async def unreachable() -> None:
        raise OSError(errno.ETIMEDOUT, "Connection timed out")

    with pytest.raises(TimeoutError, match="Connection timed out"):
        await within(60, unreachable(), lambda: KeyError("late"))


async def test_background_settles_what_the_background_started() -> None:
    background, log = Background(), []

    async def inner() -> None:
        log.append("inner")

    async def outer() -> None:
        await asyncio.sleep(0)
        background.start(inner())

    background.start(outer())
    await background.settle()
    assert log == ["inner"]
