"""Answers are found once for calls that come in together, and encoded once until something changes."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kheadersd.daemon import answers as module
from kheadersd.daemon.answers import Answers
from kheadersd.dbus.objects import Call, Peer, Reply


class Portion:
    """A connection that handles the portion of messages of this number."""

    def __init__(self, portion: int) -> None:
        self.portion = portion


def call(key: str | None = "6.1.0", portion: int = 7) -> Call:
    bus = cast("Peer", Portion(portion))
    return Call(":1.1", "/", "", "Get", [], allow_interactive=False, connection=bus, key=key)


class Counted:
    """Finds and encodes, and counts how often."""

    def __init__(self, found: object = "headers") -> None:
        self.calls = 0
        self._found = found

    def find(self, call: Call) -> Any:  # noqa: ARG002
        self.calls += 1
        return self._found

    def encode(self, served: str) -> Reply:
        self.calls += 1
        return Reply(served.encode())


def test_calls_that_come_in_together_are_looked_up_once() -> None:
    answers, counted = Answers(), Counted()
    assert len({answers.found(call(), counted.find) for _ in range(3)}) == 1
    assert counted.calls == 1
    answers.found(call("6.2.0"), counted.find)
    assert counted.calls == 2, "another key is another look"


def test_large_calls_are_not_kept() -> None:
    answers, counted = Answers(), Counted()
    for _ in range(2):
        answers.found(call(None), counted.find)
    assert counted.calls == 2


@pytest.mark.parametrize(("first", "second"), [(7, 8), (7, 0), (0, 7), (0, 0)])
def test_what_was_found_is_looked_at_again_for_what_comes_later(first: int, second: int) -> None:
    answers, counted = Answers(), Counted()
    answers.found(call(portion=first), counted.find)
    answers.found(call(portion=second), counted.find)
    assert counted.calls == 2


def test_what_was_not_found_is_looked_for_again() -> None:
    answers, counted = Answers(), Counted(found=None)
    assert answers.found(call(), counted.find) is None
    assert answers.found(call(), counted.find) is None
    assert counted.calls == 2


def test_what_was_found_is_looked_at_again_once_something_changes() -> None:
    answers, counted = Answers(), Counted()
    answers.found(call(), counted.find)
    answers.forget()
    answers.found(call(), counted.find)
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
