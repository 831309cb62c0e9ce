"""What is counted, and that Prometheus' own parser reads what is written of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kheadersd import __version__
from kheadersd.daemon.metrics import BOUNDS, ERRORS, OTHER, WORK, Metrics
from kheadersd.daemon.metrics_text import metrics_text
from kheadersd.daemon.parts import Parts
from kheadersd.errors import Corrupt, KheadersError, NotAvailable
from kheadersd.headers.requests import Request
from kheadersd.host.host import Host
from kheadersd.names import SOURCE_NAMES
from kheadersd.release import Release
from tests.support.archives import make_kheaders
from tests.support.hosts import OTHER as OTHER_RELEASE
from tests.support.hosts import RELEASE, make_host, show_in_sysfs
from tests.support.in_process import Root

if TYPE_CHECKING:
    from prometheus_client import Metric

parser = pytest.importorskip("prometheus_client.parser")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = make_host(tmp_path / "root")
    show_in_sysfs(host, make_kheaders(RELEASE))
    return host


def families(state: Parts) -> dict[str, Metric]:
    return {family.name: family for family in parser.text_string_to_metric_families(metrics_text(state))}


def numbers(family: Metric, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in family.samples}


def test_each_request_counts_once() -> None:
    metrics = Metrics()
    changes: list[None] = []
    metrics.on_change = lambda: changes.append(None)
    metrics.on_headers("tree", fresh=False)
    metrics.on_headers("package", fresh=True)
    metrics.on_pch(fresh=True)
    metrics.on_pch(fresh=False)
    metrics.on_types(fresh=False)
    metrics.on_failure(Corrupt.bus_name)
    assert {name for name, number in metrics.hits.values.items() if number} == {"tree"}
    assert {name for name, number in metrics.misses.values.items() if number} == {"package"}
    assert (metrics.pch_hits, metrics.pch_misses, metrics.types_hits, metrics.types_misses) == (1, 1, 1, 0)
    assert {name for name, number in metrics.failures.values.items() if number} == {"Corrupt"}
    assert len(changes) == 6
    assert metrics.last_success >= metrics.started_at


def test_labels_are_of_fixed_sets() -> None:
    metrics = Metrics()
    for number in range(100):
        metrics.on_headers(f"source{number}", fresh=False)
        metrics.on_failure(f"org.example.Error{number}")
        metrics.on_work(f"source{number}", 1.0, failed=False)
        metrics.on_work(f"source{number}", 1.0, failed=True)
    assert set(metrics.hits.values) == {*SOURCE_NAMES, OTHER}
    assert set(metrics.failures.values) == {*ERRORS, OTHER}
    assert set(metrics.work) == set(WORK)
    assert set(metrics.work_failures.values) == {*WORK, OTHER}
    assert metrics.hits.values[OTHER] == 100


def test_every_error_of_a_caller_has_its_own_number() -> None:
    assert {"NotAvailable", "Corrupt", "NoSpace", "AccessDenied", "Failed"} <= set(ERRORS)
    assert KheadersError.bus_name.rpartition(".")[2] in ERRORS


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (300.0, 9), (301.0, 10)])
def test_a_bound_belongs_to_its_bucket(seconds: float, bucket: int) -> None:
    metrics = Metrics()
    metrics.on_work("tree", seconds, failed=False)
    assert metrics.work["tree"].buckets[bucket] == metrics.work["tree"].count == 1


async def test_what_sources_do_is_counted(state: Parts) -> None:
    served = await state.provider.get(Request(RELEASE, ("module-file", "sysfs")), Root())
    assert (served.source, served.fresh) == ("sysfs", True)
    with pytest.raises(NotAvailable):
        await state.provider.get(Request(OTHER_RELEASE, ("module-file", "sysfs")), Root())
    assert state.metrics.work["sysfs"].count == 1
    assert state.metrics.work["sysfs"].seconds > 0
    assert state.metrics.work_failures.values["sysfs"] == 1
    assert state.metrics.work_failures.values["module-file"] == 2
    assert state.metrics.work["module-file"].count == 0


async def test_a_parser_reads_them(state: Parts) -> None:
    await state.provider.get(Request(RELEASE, ("sysfs",)), Root())
    state.metrics.on_headers("sysfs", fresh=True)
    state.metrics.on_headers("sysfs", fresh=False)
    state.metrics.on_failure(NotAvailable.bus_name)
    found = families(state)
    assert numbers(found["kheadersd_headers_hits"], "source")["sysfs"] == 1
    assert numbers(found["kheadersd_headers_misses"], "source")["sysfs"] == 1
    assert numbers(found["kheadersd_failures"], "error")["NotAvailable"] == 1
    assert found["kheadersd_cache_entries"].samples[0].value == 1
    assert found["kheadersd_cache_size_bytes"].samples[0].value == state.cache.total_bytes()
    assert numbers(found["kheadersd_module_state"], "state") == {
        "absent": 0,
        "available": 0,
        "loaded": 1,
        "builtin": 0,
    }
    assert numbers(found["kheadersd_build_info"], "version") == {__version__: 1}
    durations = [
        sample
        for sample in found["kheadersd_work_duration_seconds"].samples
        if sample.labels["work"] == "sysfs"
    ]
    buckets = [sample.value for sample in durations if sample.name.endswith("_bucket")]
    assert len(buckets) == len(BOUNDS) + 1
    assert buckets == sorted(buckets)
    assert [sample.value for sample in durations if sample.name.endswith("_count")] == [1] == buckets[-1:]


async def test_names_follow_the_conventions(state: Parts) -> None:
    found = families(state)
    for name, family in found.items():
        assert re.fullmatch(r"kheadersd_[a-z][a-z_]*[a-z]", name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram")
        assert re.search(r"_(seconds|bytes)$", name) or not re.search(r"time|size|duration", name)
    assert sum(len(family.samples) for family in found.values()) < 250


async def test_a_version_is_quoted(state: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    version = '1.0 "beta" \\ 2\n'
    monkeypatch.setattr("kheadersd.daemon.metrics_text.__version__", version)
    assert numbers(families(state)["kheadersd_build_info"], "version") == {version: 1}


async def test_a_request_is_work_until_it_is_cancelled(state: Parts) -> None:
    """What a caller gave up is no failure of the source."""
    with pytest.raises(GeneratorExit), state.progress.of(Release(RELEASE), "tree"):
        raise GeneratorExit
    assert state.metrics.work_failures.values["tree"] == state.metrics.work["tree"].count == 0
