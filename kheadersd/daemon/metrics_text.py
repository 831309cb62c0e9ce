# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's metrics in Prometheus' text format.

The format is that of prometheus.io/docs/instrumenting/exposition_formats, names and units are those of
prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from .. import __version__
from ..host.kernel_module import STATES
from .metrics import BOUNDS

if TYPE_CHECKING:
    from .metrics import Counts, Histogram
    from .parts import Parts

_PREFIX = "kheadersd_"


def metrics_text(parts: Parts) -> str:
    """All metrics, in some 150 lines of text."""
    return "".join(f"{line}\n" for line in itertools.chain(_state(parts), _counted(parts)))


def _state(parts: Parts) -> Iterator[str]:
    cache, metrics = parts.cache, parts.metrics
    yield from _family(
        "build_info",
        "gauge",
        "A constant 1, with the version of the daemon.",
        [_sample({"version": __version__}, 1)],
    )
    yield from _gauge("start_time_seconds", "When the daemon started, since the epoch.", metrics.started_at)
    yield from _gauge(
        "last_success_timestamp_seconds",
        "When a request was last served, since the epoch; 0 if none was.",
        metrics.last_success,
    )
    yield from _gauge("cache_entries", "Entries in the cache.", len(cache.entries()))
    yield from _gauge("cache_size_bytes", "The space that the cache takes on the disk.", cache.total_bytes())
    yield from _gauge("leases", "Leases that programs hold.", len(parts.leases))
    state = parts.module.state()
    yield from _family(
        "module_state",
        "gauge",
        "1 for the state that the kheaders module is in.",
        [_sample({"state": each}, int(each == state)) for each in STATES],
    )
    yield from _gauge(
        "module_owned", "Whether the module is loaded, and by the daemon.", int(parts.module.is_owned)
    )


def _counted(parts: Parts) -> Iterator[str]:
    metrics = parts.metrics
    yield from _counter(
        "headers_hits_total", "Requests served with headers that were there.", "source", metrics.hits
    )
    yield from _counter(
        "headers_misses_total", "Requests for which headers were made.", "source", metrics.misses
    )
    for name, what, number in (
        ("pch_hits_total", "Requests served with a precompiled header that was there.", metrics.pch_hits),
        ("pch_misses_total", "Requests for which a precompiled header was made.", metrics.pch_misses),
        ("types_hits_total", "Requests served with a vmlinux.h that was there.", metrics.types_hits),
        ("types_misses_total", "Requests for which a vmlinux.h was made.", metrics.types_misses),
    ):
        yield from _family(name, "counter", what, [_sample({}, number)])
    yield from _counter("failures_total", "Requests that failed or were refused.", "error", metrics.failures)
    yield from _counter(
        "work_failures_total",
        "Work on a source, vmlinux.h (btf) or a precompiled header (pch) that failed.",
        "work",
        metrics.work_failures,
    )
    yield from _family(
        "work_duration_seconds",
        "histogram",
        "The time of work on a source, vmlinux.h (btf) or a precompiled header (pch) that succeeded.",
        itertools.chain.from_iterable(_buckets(name, each) for name, each in metrics.work.items()),
    )


def _gauge(name: str, what: str, number: float) -> Iterator[str]:
    return _family(name, "gauge", what, [_sample({}, number)])


def _counter(name: str, what: str, label: str, counts: Counts) -> Iterator[str]:
    samples = [_sample({label: value}, number) for value, number in counts.values.items()]
    return _family(name, "counter", what, samples)


def _buckets(work: str, histogram: Histogram) -> Iterator[tuple[str, str]]:
    bounds = (*map(str, BOUNDS), "+Inf")
    for bound, number in zip(bounds, itertools.accumulate(histogram.buckets), strict=True):
        yield _sample({"work": work, "le": bound}, number, "_bucket")
    yield _sample({"work": work}, histogram.seconds, "_sum")
    yield _sample({"work": work}, histogram.count, "_count")


def _family(name: str, kind: str, what: str, samples: Iterable[tuple[str, str]]) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {what}"
    yield f"# TYPE {_PREFIX}{name} {kind}"
    for suffix, rest in samples:
        yield f"{_PREFIX}{name}{suffix}{rest}"


def _sample(labels: Mapping[str, str], number: float, suffix: str = "") -> tuple[str, str]:
    """What follows the name of a metric: its suffix, and the labels with the number."""
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return suffix, (f"{{{shown}}}" if shown else "") + f" {number}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
