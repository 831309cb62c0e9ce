"""Answers are found once for calls that come in together, and encoded once until something changes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from kheadersd.daemon import answers as module
from kheadersd.daemon.answers import Answers
from kheadersd.dbus.objects import Reply
from kheadersd.headers.requests import Request
from kheadersd.release import Release

REQUEST = Request(Release("6.1.0"), ("tree",))
OTHER = Request(Release("6.2.0"), ("tree",))


class Counted:
    """Finds and encodes, and counts how often."""

    def __init__(self, found: object = "headers") -> None:
        self.calls = 0
        self._found = found

    def find(self, request: Request) -> Any:  # noqa: ARG002
        self.calls += 1
        return self._found

    def encode(self, served: str) -> Reply:
        self.calls += 1
        return Reply(served.encode())


async def test_calls_that_come_in_together_are_looked_up_once() -> None:
    answers, counted = Answers(), Counted()
    assert len({answers.found(REQUEST, counted.find) for _ in range(3)}) == 1
    assert counted.calls == 1
    answers.found(OTHER, counted.find)
    assert counted.calls == 2, "another request is another look"


async def test_what_was_found_is_looked_at_again_in_the_next_turn_of_the_loop() -> None:
    answers, counted = Answers(), Counted()
    answers.found(REQUEST, counted.find)
    await asyncio.sleep(0)
    answers.found(REQUEST, counted.find)
    assert counted.calls == 2


async def test_what_was_not_found_is_looked_for_again() -> None:
    answers, counted = Answers(), Counted(found=None)
    assert answers.found(REQUEST, counted.find) is None
    assert answers.found(REQUEST, counted.find) is None
    assert counted.calls == 2


def test_replies_are_encoded_once_until_something_changes() -> None:
    answers, counted = Answers(), Counted()
    first = answers.encoded("a", counted.encode)
    assert answers.encoded("a", counted.encode) is first
    assert counted.calls == 1
    answers.forget()
    assert answers.encoded("a", counted.encode) is not first


def test_the_number_of_encoded_replies_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_MAX_ENCODED", 3)
    answers, counted = Answers(), Counted()
    for number in range(10):
        answers.encoded(str(number), counted.encode)
    assert len(cast("Any", answers)._encoded) <= 3
