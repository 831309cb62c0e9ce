"""Real events of the kernel, of a subsystem that every machine has: "mem" with its device "null"."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.host.uevents import Uevents
from tests.support.clients import eventually

_EVENT = Path("/sys/class/mem/null/uevent")
_NOBODY = 65534
_TOO_MANY = 30_000  # for the largest buffer that a user without privileges has on common machines, 8 MiB
_OTHER = Path("/sys/class/mem/zero/uevent")

pytestmark = pytest.mark.skipif(
    not os.access(_EVENT, os.W_OK), reason="needs devices that are real, and root"
)


class Heard:
    """Counts calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def cause(event: Path, action: str = "change") -> None:
    event.write_text(action)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def uevents(heard: Heard) -> AsyncIterator[Uevents]:
    events = Uevents("mem", "null", heard)
    await events.start()
    yield events
    events.close()


async def test_an_event_is_heard(uevents: Uevents, heard: Heard) -> None:
    cause(_EVENT, "add")
    await eventually(lambda: heard.calls)
    cause(_EVENT, "remove")
    await eventually(lambda: heard.calls > 1)


async def test_events_of_others_are_not_heard(uevents: Uevents, heard: Heard) -> None:
    cause(_OTHER, "change")
    cause(Path("/sys/devices/system/cpu/cpu0/uevent"), "change")
    cause(_EVENT, "change")  # the kernel tells them in this order
    await eventually(lambda: heard.calls)
    assert heard.calls == 1


async def test_nothing_is_heard_after_the_end(uevents: Uevents, heard: Heard) -> None:
    uevents.close()
    uevents.close()
    cause(_EVENT, "add")
    await asyncio.sleep(0.1)
    assert heard.calls == 0


@pytest.fixture
async def unprivileged(heard: Heard) -> AsyncIterator[Uevents]:
    """As the daemon is: libudev cannot give the socket a large buffer then."""
    events = Uevents("mem", "null", heard)
    os.seteuid(_NOBODY)
    try:
        await events.start()
    finally:
        os.seteuid(0)
    yield events
    events.close()


async def test_other_users_hear_too(unprivileged: Uevents, heard: Heard) -> None:
    cause(_EVENT, "add")
    await eventually(lambda: heard.calls)


async def test_an_overflow_is_survived(
    unprivileged: Uevents, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop stands still while more events come than the socket has room for."""
    for _ in range(_TOO_MANY):
        cause(_OTHER, "change")
    cause(_EVENT, "add")  # lost
    caplog.set_level("DEBUG")
    await eventually(lambda: heard.calls)
    assert "events of the kernel were lost" in caplog.text
    await asyncio.sleep(1)  # until what was not lost is read
    heard.calls = 0
    used = time.process_time()
    await asyncio.sleep(0.5)
    assert time.process_time() - used < 0.2, "it does not spin"
    assert heard.calls == 0
    cause(_EVENT, "add")
    await eventually(lambda: heard.calls)
