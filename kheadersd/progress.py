# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon is doing, as the threads that do it report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .release import Release

INTERVAL = 0.2
"""Seconds between two reports of one stage; a new stage is reported at once, if `_RATE` allows it."""

_RATE = 20.0
"""Reports a second in all, however many callers there are; a short burst may be twice that."""

Report = Callable[[str, float], None]
"""Called with a stage and the fraction done, 0 to 1; cheap, from any thread."""


def unreported(stage: str, fraction: float) -> None:
    """A `Report` for what is too short to be reported."""


class OnEnd(Protocol):
    """Is called when a piece of work ends that was not cancelled."""

    def __call__(self, source: str, seconds: float, *, failed: bool) -> None:
        """Note how long it took, and whether it failed."""


def _unnoted(source: str, seconds: float, *, failed: bool) -> None:
    """An `OnEnd` that ignores it."""


class Progress:
    """Collects reports from any thread, and passes some of them on, on the event loop.

    Args:
        on_progress: called with the release, the stage and the fraction done, 0 to 1.
        on_change: called when `activity` may have changed.
        on_end: called at the end of each piece of work.
    """

    def __init__(
        self,
        on_progress: Callable[[Release, str, float], None],
        on_change: Callable[[], None],
        on_end: OnEnd = _unnoted,
    ) -> None:
        self._on_progress = on_progress
        self._on_change = on_change
        self._on_end = on_end
        self._doing: dict[object, str] = {}
        self._budget = _Budget(_RATE)

    @property
    def activity(self) -> str:
        """What is being done, in words; "idle" if nothing is."""
        if not self._doing:
            return "idle"
        first, *others = self._doing.values()
        return f"{first} and {len(others)} more" if others else first

    @contextlib.contextmanager
    def of(self, release: Release, source: str) -> Iterator[Report]:
        """The progress of one piece of work, until the ``with`` block ends.

        An exception that ends it says that the work failed.
        """
        loop = asyncio.get_running_loop()
        work = object()
        is_reported = False
        last_stage, last_time = "", 0.0
        started = time.monotonic()

        def note(stage: str, fraction: float) -> None:
            nonlocal is_reported
            if work in self._doing:
                self._doing[work] = f"{stage} {release} ({source})"
                if self._budget.spend():
                    is_reported = True
                    self._on_progress(release, stage, fraction)

        def report(stage: str, fraction: float) -> None:
            nonlocal last_stage, last_time
            now = time.monotonic()
            if stage == last_stage and now - last_time < INTERVAL:
                return
            last_stage, last_time = stage, now
            loop.call_soon_threadsafe(note, stage, min(max(fraction, 0.0), 1.0))

        self._doing[work] = f"looking for {release} ({source})"
        try:
            yield report
        except Exception:
            self._on_end(source, time.monotonic() - started, failed=True)
            raise
        else:
            self._on_end(source, time.monotonic() - started, failed=False)
        finally:
            del self._doing[work]
            if is_reported:
                self._on_progress(release, "done", 1.0)
            self._on_change()


class _Budget:
    """A token bucket: ``rate`` a second, bursts of twice that."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = 2 * rate
        self._at = time.monotonic()

    def spend(self) -> bool:
        now = time.monotonic()
        self._tokens = min(2 * self._rate, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
