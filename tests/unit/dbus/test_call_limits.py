"""The limits on calls in flight."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kheadersd.dbus.call_limits import (
    FOR_ROOT,
    IN_TOTAL,
    PER_SENDER,
    PER_SENDER_UNHEARD,
    PER_USER,
    CallsInFlight,
)
from kheadersd.errors import LimitsExceeded
from tests.support.clients import eventually


class Users:
    """The users of senders, which the bus tells when a test lets it."""

    def __init__(self, known: dict[str, int] | None = None) -> None:
        self.known = known or {}
        self.told = asyncio.Event()

    async def identify(self, sender: str) -> int:
        await self.told.wait()
        return self.known[sender]


Task = asyncio.Task[None]


async def fill(calls: CallsInFlight, sender: str, count: int, uid: int | None) -> list[Task]:
    started = []
    for _ in range(count):
        calls.check(sender, uid)
        task = calls.start(sender, uid, asyncio.sleep(60))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        started.append(task)
    return started


async def refused(tasks: list[Task]) -> int:
    """How many tasks are refused, by then."""
    for _ in range(3):
        await asyncio.sleep(0)
    return sum(task.done() and isinstance(task.exception(), LimitsExceeded) for task in tasks)


async def test_a_connection_has_a_limit() -> None:
    calls = CallsInFlight(Users().identify)
    await fill(calls, ":1.1", PER_SENDER, 0)
    with pytest.raises(LimitsExceeded, match="of this connection"):
        calls.check(":1.1", 0)
    calls.check(":1.2", 0)
    calls.cancel(":1.1")
    await eventually(lambda: len(calls) == 0)
    calls.check(":1.1", 0)
    await calls.stop()


async def test_calls_whose_answer_nobody_waits_for_have_a_smaller_limit() -> None:
    calls = CallsInFlight(Users().identify)
    await fill(calls, ":1.1", PER_SENDER_UNHEARD, 0)
    calls.check(":1.1", 0)
    with pytest.raises(LimitsExceeded, match=f"{PER_SENDER_UNHEARD} calls of this connection"):
        calls.check(":1.1", 0, unheard=True)
    calls.check(":1.2", 0, unheard=True)
    await calls.stop()


async def test_a_user_has_a_limit_also_for_calls_that_came_before_it_was_known() -> None:
    users = Users({":1.1": 1000, ":1.3": 1001})
    calls = CallsInFlight(users.identify)
    waiting = await fill(calls, ":1.1", 100, None)
    others = await fill(calls, ":1.3", 100, None)
    await fill(calls, ":1.2", PER_SENDER, 1000)
    await fill(calls, ":1.4", PER_USER - PER_SENDER - 60, 1000)
    users.told.set()
    assert await refused(waiting) == 40
    assert await refused(others) == 0
    with pytest.raises(LimitsExceeded, match="of user 1000"):
        calls.check(":1.5", 1000)
    calls.check(":1.5", 1001)
    calls.check(":1.5", None)
    calls.cancel(":1.2")
    await eventually(lambda: len(calls) == 100 + PER_USER - PER_SENDER)
    calls.check(":1.5", 1000)
    await calls.stop()
    assert len(calls) == 0
    assert not calls._of_user
    assert not calls._user


async def test_who_is_not_identified_gets_nothing_done() -> None:
    calls = CallsInFlight(Users().identify)
    began = asyncio.Event()

    async def work() -> None:
        began.set()

    task = calls.start(":1.1", None, work())
    await refused([task])
    assert not began.is_set()
    await calls.stop()
    assert task.cancelled()

    users = Users()
    users.told.set()
    calls = CallsInFlight(users.identify)
    task = calls.start(":1.1", None, work())
    with pytest.raises(KeyError):
        await task
    await calls.stop()
    assert not began.is_set()


async def test_one_user_leaves_room_for_others_whatever_its_connections_send() -> None:
    """As many connections as a system bus allows, and as many calls as it lets each of them have."""
    users = Users()
    users.told.set()
    calls = CallsInFlight(users.identify)
    tasks: list[Task] = []
    for number in range(256):
        sender = f":1.{number}"
        users.known[sender] = 1000
        with contextlib.suppress(LimitsExceeded):
            tasks += await fill(calls, sender, 128, 1000 if number < 16 else None)
        if number < 128:
            await refused(tasks)  # these become known, and of the others the bus says nothing yet
    assert len(calls) < IN_TOTAL - FOR_ROOT
    calls.check(":1.999", None)
    calls.check(":1.999", 1001)
    await refused(tasks)
    assert len(calls) == PER_USER
    await calls.stop()


async def test_root_has_calls_of_its_own_where_users_have_too_many() -> None:
    users = Users({":1.998": 1008, ":1.999": 0})
    users.told.set()
    calls = CallsInFlight(users.identify)
    for number in range(7):
        await fill(calls, f":1.{number}", PER_SENDER, 1000 + number)
    await fill(calls, ":1.8", PER_SENDER - FOR_ROOT, 1008)
    with pytest.raises(LimitsExceeded, match=f"{IN_TOTAL - FOR_ROOT} calls are in progress"):
        calls.check(":1.9", 1009)
    assert await refused(await fill(calls, ":1.998", 1, None)) == 1
    assert await refused(await fill(calls, ":1.999", FOR_ROOT - 1, None)) == 0
    await fill(calls, ":1.999", 1, 0)
    await calls.stop()


async def test_root_is_exempt_from_the_limit_of_a_user_and_not_from_the_total() -> None:
    calls = CallsInFlight(Users().identify)
    for number in range(IN_TOTAL // PER_SENDER):
        await fill(calls, f":1.{number}", PER_SENDER, 0)
    with pytest.raises(LimitsExceeded, match=f"{IN_TOTAL} calls are in progress"):
        calls.check(":1.99", 0)
    await calls.stop()
    assert len(calls) == 0
