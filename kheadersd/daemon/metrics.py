# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon counts: requests that were served or failed, and how long the work for them took.

The numbers are those of this process: they begin at 0 when it starts, as counters of Prometheus do. They are
counted by sources and errors alone, of which there are some dozen: no caller makes them more.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .. import errors
from ..names import SOURCE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""The upper bounds of the buckets of a `Histogram`, in seconds."""

WORK = (*SOURCE_NAMES, "btf", "pch")
"""What work is done on: a source of headers, vmlinux.h from BTF, precompiled headers."""

ERRORS = tuple(
    sorted(
        {
            each.bus_name.rpartition(".")[2]
            for each in vars(errors).values()
            if isinstance(each, type) and issubclass(each, errors.KheadersError)
        }
    )
)
"""The last parts of the names of all errors that a caller can get."""

OTHER = "other"
"""Stands for what is in no list, such as a source that a later version of the daemon has written down."""


class Counts:
    """A number for each label of a fixed set."""

    def __init__(self, labels: Iterable[str]) -> None:
        self.values = dict.fromkeys(labels, 0)

    def add(self, label: str) -> None:
        """Count one more; as `OTHER` if the label is not one of the set."""
        if label not in self.values:
            label = OTHER
            self.values.setdefault(OTHER, 0)
        self.values[label] += 1


class Histogram:
    """How long pieces of work took.

    Attributes:
        buckets: how many took at most as long as each of `BOUNDS` and longer than the one before; the last
            number is of those that took longer than all.
        seconds: that all took together.
    """

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def add(self, seconds: float) -> None:
        """Note one more."""
        self.buckets[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """Belongs to the event loop.

    Attributes:
        started_at: seconds since the epoch.
        last_success: when a request was last served, seconds since the epoch; 0 if none was.
        hits: requests that were served with headers that were there, by their source.
        misses: requests that were served with headers that were made for them, by their source.
        pch_hits, pch_misses: the same of precompiled headers.
        types_hits, types_misses: the same of vmlinux.h.
        failures: requests that failed or were refused, by the last part of the error's name.
        work: how long work took that succeeded, by what it was done on.
        work_failures: work that failed, by what it was done on; also that of a source without headers.
        on_change: called when a number has changed.
    """

    def __init__(self) -> None:
        self.started_at = time.time()
        self.last_success = 0.0
        self.hits = Counts(SOURCE_NAMES)
        self.misses = Counts(SOURCE_NAMES)
        self.pch_hits = self.pch_misses = 0
        self.types_hits = self.types_misses = 0
        self.failures = Counts(ERRORS)
        self.work = {source: Histogram() for source in WORK}
        self.work_failures = Counts(WORK)
        self.on_change: Callable[[], None] = _ignore

    def on_headers(self, source: str, *, fresh: bool) -> None:
        """A caller is given headers of a source; ``fresh`` if they were made for the request."""
        (self.misses if fresh else self.hits).add(source)
        self._served()

    def on_pch(self, *, fresh: bool) -> None:
        """A caller is given a precompiled header."""
        if fresh:
            self.pch_misses += 1
        else:
            self.pch_hits += 1
        self._served()

    def on_types(self, *, fresh: bool) -> None:
        """A caller is given a vmlinux.h."""
        if fresh:
            self.types_misses += 1
        else:
            self.types_hits += 1
        self._served()

    def on_failure(self, name: str) -> None:
        """A request failed, or was refused, with the error of this name."""
        self.failures.add(name.rpartition(".")[2])
        self.on_change()

    def on_work(self, source: str, seconds: float, *, failed: bool) -> None:
        """A piece of work has ended, see `progress.OnEnd`."""
        if failed:
            self.work_failures.add(source)
        elif source in self.work:
            self.work[source].add(seconds)
        self.on_change()

    def describe(self) -> dict[str, object]:
        """The numbers, fit for JSON."""
        return {
            "started_at": self.started_at,
            "last_success": self.last_success,
            "headers": {"hits": self.hits.values, "misses": self.misses.values},
            "pch": {"hits": self.pch_hits, "misses": self.pch_misses},
            "types": {"hits": self.types_hits, "misses": self.types_misses},
            "failures": self.failures.values,
            "work": {
                source: {
                    "count": histogram.count,
                    "seconds": histogram.seconds,
                    "failures": self.work_failures.values[source],
                }
                for source, histogram in self.work.items()
            },
        }

    def _served(self) -> None:
        self.last_success = time.time()
        self.on_change()


def _ignore() -> None: ...
