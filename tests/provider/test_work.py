"""Shared work: one task a key, errors for all, nothing left when everybody leaves."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from kheadersd.work import Background, SharedWork, in_thread, within


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


async def test_within_raises_what_it_is_told() -> None:
    with pytest.raises(KeyError):
        await within(0.01, asyncio.sleep(5), lambda: KeyError("late"))


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
