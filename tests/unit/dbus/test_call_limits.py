"""The limits on calls in flight."""

from __future__ import annotations

import asyncio

import pytest

from kheadersd.dbus.call_limits import IN_TOTAL, PER_SENDER, PER_SENDER_UNHEARD, PER_USER, CallsInFlight
from kheadersd.errors import LimitsExceeded
from tests.support.clients import eventually


async def fill(calls: CallsInFlight, sender: str, count: int, uid: int | None) -> None:
    for _ in range(count):
        calls.check(sender, uid)
        calls.start(sender, uid, asyncio.sleep(60))


async def test_a_connection_has_a_limit() -> None:
    calls = CallsInFlight()
    await fill(calls, ":1.1", PER_SENDER, 0)
    with pytest.raises(LimitsExceeded, match="of this connection"):
        calls.check(":1.1", 0)
    calls.check(":1.2", 0)
    calls.cancel(":1.1")
    await eventually(lambda: len(calls) == 0)
    calls.check(":1.1", 0)
    await calls.stop()


async def test_calls_whose_answer_nobody_waits_for_have_a_smaller_limit() -> None:
    calls = CallsInFlight()
    await fill(calls, ":1.1", PER_SENDER_UNHEARD, 0)
    calls.check(":1.1", 0)
    with pytest.raises(LimitsExceeded, match=f"{PER_SENDER_UNHEARD} calls of this connection"):
        calls.check(":1.1", 0, unheard=True)
    calls.check(":1.2", 0, unheard=True)
    await calls.stop()


async def test_a_user_has_a_limit_also_for_calls_that_came_before_it_was_known() -> None:
    calls = CallsInFlight()
    await fill(calls, ":1.1", PER_SENDER, None)
    await fill(calls, ":1.2", PER_USER - PER_SENDER, 1000)
    calls.check(":1.3", 1000)
    calls.identify(":1.1", 1000)
    calls.identify(":1.1", 1000)
    calls.identify(":1.9", 1000)
    with pytest.raises(LimitsExceeded, match="of user 1000"):
        calls.check(":1.3", 1000)
    calls.check(":1.3", 1001)
    calls.check(":1.3", None)
    calls.cancel(":1.1")
    await eventually(lambda: len(calls) == PER_USER - PER_SENDER)
    calls.check(":1.3", 1000)
    await calls.stop()
    assert len(calls) == 0
    assert not calls._of_user
    assert not calls._user


async def test_root_is_exempt_from_the_limit_of_a_user_and_not_from_the_total() -> None:
    calls = CallsInFlight()
    for number in range(IN_TOTAL // PER_SENDER):
        await fill(calls, f":1.{number}", PER_SENDER, 0)
    with pytest.raises(LimitsExceeded, match=f"{IN_TOTAL} calls are in progress"):
        calls.check(":1.99", 0)
    await calls.stop()
    assert len(calls) == 0
