"""Which reports of the threads are passed on, and what the daemon is said to be doing."""

from __future__ import annotations

import asyncio

from kheadersd.progress import Progress
from kheadersd.release import Release

ONE, OTHER = Release("6.1.0-1"), Release("6.1.0-2")


async def test_the_activity() -> None:
    progress = Progress(lambda *_: None, lambda: None)
    assert progress.activity == "idle"
    with progress.of(ONE, "sysfs") as report:
        assert progress.activity == f"looking for {ONE} (sysfs)"
        report("extract", 0.0)
        await asyncio.sleep(0)
        assert progress.activity == f"extract {ONE} (sysfs)"
        with progress.of(OTHER, "module"):
            assert progress.activity == f"extract {ONE} (sysfs) and 1 more"
    assert progress.activity == "idle"


async def test_a_stage_is_reported_at_its_begin_and_then_seldom() -> None:
    told: list[tuple[str, float]] = []
    progress = Progress(lambda _, stage, fraction: told.append((stage, fraction)), lambda: None)
    with progress.of(ONE, "sysfs") as report:
        for stage in ("read", "extract"):
            for percent in range(100):
                report(stage, percent / 100)
        await asyncio.sleep(0)
    assert told == [("read", 0.0), ("extract", 0.0), ("done", 1.0)]


async def test_work_that_was_not_reported_is_not_reported_as_done() -> None:
    told: list[str] = []
    changes: list[None] = []
    progress = Progress(lambda _, stage, __: told.append(stage), lambda: changes.append(None))
    with progress.of(ONE, "sysfs"):
        pass
    assert told == []
    assert len(changes) == 1


async def test_a_fraction_is_between_0_and_1_and_late_reports_are_dropped() -> None:
    told: list[float] = []
    progress = Progress(lambda _, __, fraction: told.append(fraction), lambda: None)
    with progress.of(ONE, "sysfs") as report:
        report("read", -1.0)
        report("extract", 7.0)
        await asyncio.sleep(0)
        report("sync", 0.5)
    await asyncio.sleep(0)
    assert told == [0.0, 1.0, 1.0]


async def test_reports_of_all_callers_together_are_bounded() -> None:
    told: list[str] = []
    progress = Progress(lambda _, stage, __: told.append(stage), lambda: None)
    for _ in range(500):
        with progress.of(ONE, "sysfs") as report:
            report("read", 0.0)
            await asyncio.sleep(0)
    assert 40 <= told.count("read") < 500
