"""Which failures LastError and the journal tell of."""

from __future__ import annotations

import pytest

from kheadersd.daemon.failures import Failures
from kheadersd.errors import AccessDenied, Corrupt, KheadersError, NotAvailable, NotCached, UnknownProfile
from kheadersd.events import Event
from tests.support.in_process import Kept


class Changes:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def failures(journal: Kept, changes: Changes) -> Failures:
    return Failures(journal, changes)


@pytest.mark.parametrize("error", [NotCached("nothing"), AccessDenied("not you"), UnknownProfile("none")])
async def test_an_ordinary_refusal_is_not_the_last_error(
    failures: Failures, changes: Changes, error: KheadersError
) -> None:
    failures.note(error, "6.1", 1000)
    assert failures.last == ("", "")
    assert changes.count == 0


async def test_a_failure_is_the_last_error(failures: Failures, changes: Changes) -> None:
    failures.note(NotAvailable("no source"), "6.1", 1000)
    failures.note(NotCached("nothing"), "6.1", 1000)
    assert failures.last == ("org.kheaders.Provide.Error.NotAvailable", "no source")
    assert changes.count == 1


async def test_identical_failures_are_logged_once(failures: Failures, journal: Kept) -> None:
    for uid in (1000, 1001):
        failures.note(Corrupt("damaged"), "6.1", uid)
    assert journal.of(Event.REQUEST_FAILED) == ["damaged"]
    failures.note(Corrupt("damaged"), "6.2", 1000)
    assert len(journal.of(Event.REQUEST_FAILED)) == 2, "it is about another release"
