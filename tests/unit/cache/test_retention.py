from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from kheadersd.cache.entry import TYPES, Entry, Record
from kheadersd.cache.integrity import Integrity
from kheadersd.cache.leftovers import Leftover, Stay
from kheadersd.cache.retention import Retention, leftovers_to_remove, to_remove
from kheadersd.release import Release

DAY = 86_400 * 1_000_000
NOW = 20_000 * DAY


def entry(release: str, days: int, *, digest: str = "a", size: int = 10) -> Entry:
    """An entry that was made and last used so many days ago."""
    at = NOW - days * DAY
    record = Record(Release(release), digest * 64, "/", "sysfs", "", "", "", 1, size, at)
    return Entry(record, Path("/nowhere"), 1, Integrity(Path("/nowhere"), {}), last_used=at)


OLD, MIDDLE, NEW = entry("1.0", 30), entry("2.0", 20), entry("3.0", 10)


@pytest.mark.parametrize(
    ("policy", "protected", "leased", "leave"),
    [
        (Retention(), (), (), []),
        (Retention(max_age=25 * DAY), (), (), [OLD]),
        (Retention(max_age=30 * DAY), (), (), []),
        (Retention(max_age=0), (), (), [OLD, MIDDLE, NEW]),
        (Retention(max_age=0), ("2.0",), (), [OLD, NEW]),
        (Retention(max_age=0), (), (MIDDLE.name,), [OLD, NEW]),
        (Retention(max_entries=3), (), (), []),
        (Retention(max_entries=2), (), (), [OLD]),
        (Retention(max_entries=2), ("1.0",), (), [MIDDLE]),
        (Retention(max_entries=1), ("1.0",), (MIDDLE.name,), [NEW]),
        (Retention(max_entries=0), ("1.0", "2.0", "3.0"), (), []),
        (Retention(max_entries=0), ("9.9",), (), [OLD, MIDDLE, NEW]),
        (Retention(max_bytes=30), (), (), []),
        (Retention(max_bytes=29), (), (), [OLD]),
        (Retention(max_bytes=10), ("3.0",), (), [OLD, MIDDLE]),
        (Retention(max_bytes=0), ("3.0",), (OLD.name,), [MIDDLE]),
        (Retention(max_age=25 * DAY, max_entries=1, max_bytes=25), (), (), [OLD, MIDDLE]),
    ],
)
def test_who_leaves(
    policy: Retention, protected: tuple[Release, ...], leased: tuple[str, ...], leave: list[Entry]
) -> None:
    chosen = to_remove([NEW, OLD, MIDDLE], protected=protected, leased=leased, policy=policy, now=NOW)
    assert [entry for entry, _ in chosen] == leave


def test_reasons_say_which_limit() -> None:
    policy = Retention(max_age=25 * DAY, max_entries=2, max_bytes=15)
    entries = [OLD, MIDDLE, NEW, entry("4.0", 5)]
    chosen = to_remove(entries, protected=(), leased=(), policy=policy, now=NOW)
    assert [reason for _, reason in chosen] == [
        "not used for 30 days",
        "the cache may have 2 entries, and had 3",
        "the cache may take 15 B, and took 20 B",
    ]


def test_use_counts_and_not_age() -> None:
    used = entry("1.0", 30)
    used.last_used = NOW
    chosen = to_remove([used, NEW], protected=(), leased=(), policy=Retention(max_entries=1), now=NOW)
    assert [entry for entry, _ in chosen] == [NEW]


def test_what_was_given_lately_stays_whatever_the_clock_says() -> None:
    policies = (Retention(max_age=25 * DAY), Retention(max_entries=0), Retention(max_bytes=0))
    given = entry("1.3", 30)
    given.given_at = 5000.0
    with_pch = entry("1.1", 30)
    with_pch.pchs["a"] = SimpleNamespace(given_at=5000.0, record=SimpleNamespace(bytes=1))  # type: ignore[assignment]
    damaged = entry("1.2", 30)
    damaged.given_at, damaged.is_damaged = 5000.0, True
    entries = [given, with_pch, damaged, OLD, entry("1.3", 30, digest="f")]
    for policy in policies:
        for since, stay in ((4999.0, {given, with_pch}), (5001.0, set())):
            chosen = to_remove(entries, protected=(), leased=(), policy=policy, now=NOW, in_use_since=since)
            assert set(entries) - {entry for entry, _ in chosen} == stay


def test_of_what_was_given_lately_the_last_of_each_kind_stays() -> None:
    """As copies of a tree that its owner changes again and again: they must not fill the disk."""
    copies = [entry("6.1", 1, digest=digest) for digest in "abc"]
    types = entry("6.1", 1, digest="d")
    types.record = dataclasses.replace(types.record, kind=TYPES)
    for number, copy in enumerate([*copies, types]):
        copy.given_at = 5000.0 + number
    chosen = to_remove(
        [*copies, types],
        protected=(),
        leased=(),
        policy=Retention(max_bytes=0),
        now=NOW,
        in_use_since=0.0,
    )
    assert {entry for entry, _ in chosen} == set(copies[:2])


def test_only_the_newest_entry_of_a_protected_release_stays() -> None:
    older, newer = entry("6.1", 30, digest="a"), entry("6.1", 1, digest="b")
    older.last_used = NOW
    release = Release("6.1")
    chosen = to_remove(
        [older, newer], protected={release}, leased=(), policy=Retention(max_entries=1), now=NOW
    )
    assert [entry for entry, _ in chosen] == [older]


def test_what_has_a_newer_one_goes_before_what_is_used() -> None:
    """As copies of a tree that its owner changes again and again, which are newer than all else."""
    copies = [entry("6.1", days, digest=digest) for days, digest in ((3, "a"), (2, "b"), (1, "c"))]
    chosen = to_remove([*copies, OLD], protected=(), leased=(), policy=Retention(max_entries=2), now=NOW)
    assert [entry for entry, _ in chosen] == copies[:2]
    policy = Retention(max_entries=3, max_age=25 * DAY)
    chosen = to_remove([*copies, OLD], protected=(), leased=(), policy=policy, now=NOW)
    assert [entry for entry, _ in chosen] == [OLD]


def test_what_is_no_entry_goes_first_and_counts() -> None:
    def leftover(number: int, stay: Stay) -> Leftover:
        return Leftover(stay, "some", Path("/nowhere"), number, 10, NOW - number * DAY)

    leased = leftover(30, Stay.LEASED)
    older, newer = (leftover(days, Stay.OTHER_VERSION) for days in (20, 10))
    for policy, chosen in (
        (Retention(), []),
        (Retention(max_bytes=40), []),
        (Retention(max_bytes=39), [older]),
        (Retention(max_bytes=0), [older, newer]),
        (Retention(max_age=15 * DAY), [older]),
        (Retention(max_entries=0), []),
    ):
        found = leftovers_to_remove([newer, leased, older], policy=policy, now=NOW, entry_bytes=10)
        assert [leftover for leftover, _ in found] == chosen
    policy = Retention(max_bytes=30)
    assert to_remove([OLD, NEW], protected=(), leased=(), policy=policy, now=NOW, besides=10) == []
    chosen_entries = to_remove([OLD, NEW], protected=(), leased=(), policy=policy, now=NOW, besides=11)
    assert [entry for entry, _ in chosen_entries] == [OLD]


def test_a_clock_that_was_set_back_removes_nothing() -> None:
    chosen = to_remove([NEW], protected=(), leased=(), policy=Retention(max_age=DAY), now=NOW - 100 * DAY)
    assert chosen == []
