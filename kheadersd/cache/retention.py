# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which entries and leftovers the retention policy removes: decisions only, which `Pruning` carries out."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from ..system import units
from .leftovers import Stay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from ..config import Config
    from ..release import Release
    from .entry import Entry
    from .leftovers import Leftover


@dataclasses.dataclass(frozen=True, slots=True)
class Retention:
    """The limits of the cache; None is no limit.

    Attributes:
        max_age: microseconds since an entry was last used.
        max_entries: how many entries there may be.
        max_bytes: what all of them may take on disk.
    """

    max_age: int | None = None
    max_entries: int | None = None
    max_bytes: int | None = None

    @classmethod
    def of(cls, config: Config) -> Retention:
        """That of the configuration."""
        max_age = None if config.max_age is None else int(config.max_age * 1e6)
        return cls(max_age, config.max_entries, config.max_size)


def to_remove(  # noqa: PLR0913 - all that decides
    entries: Iterable[Entry],
    *,
    protected: Collection[Release],
    leased: Collection[str],
    policy: Retention,
    now: int,
    besides: int = 0,
    in_use_since: float = math.inf,
) -> list[tuple[Entry, str]]:
    """The entries that have to be removed, and why.

    First those that are damaged, then those that were not used for too long, then those of which there is a
    newer one of the same release and kind, then those that were not used for the longest time.

    Leased entries and the newest entry of each kind of a protected release stay, and count towards the
    limits. An older entry of a protected release, which callers are not given any more, is not protected.
    The entry of each kind of a release that a program was given last stays, too, while it may be in use.
    One each: a tree whose owner changes it again and again must not fill the disk.

    Args:
        protected: the running and the installed kernels.
        leased: names of entries.
        now: microseconds since the epoch.
        besides: bytes that the cache takes for what is no entry.
        in_use_since: on the monotonic clock: what was given since then may be in use.
    """
    remaining = sorted(entries, key=lambda entry: (entry.last_used, entry.record.extracted_at, entry.name))
    damaged = [entry for entry in remaining if entry.is_damaged and entry.name not in leased]
    chosen = [(entry, "damaged") for entry in damaged]
    remaining = [entry for entry in remaining if entry not in damaged]
    newest = _last(remaining, lambda entry: entry.record.extracted_at)
    given = [entry for entry in remaining if entry.used_at >= in_use_since]
    in_use = _last(given, lambda entry: entry.used_at)
    candidates = [
        entry
        for entry in remaining
        if entry.name not in leased
        and not (entry.name in newest and entry.release in protected)
        and entry.name not in in_use
    ]
    old = [(entry, reason) for entry in candidates if (reason := _too_old(policy, now - entry.last_used))]
    chosen += old
    count = len(remaining) - len(old)
    size = sum(entry.bytes for entry in remaining) + besides - sum(entry.bytes for entry, _ in old)
    # A tree whose owner changes it again and again must not push out what others use.
    candidates.sort(key=lambda entry: entry.name in newest)
    for entry in candidates:
        if _too_old(policy, now - entry.last_used):
            continue
        reason = _too_much(policy, count, size)
        if not reason:
            break
        chosen.append((entry, reason))
        count -= 1
        size -= entry.bytes
    return chosen


def leftovers_to_remove(
    leftovers: Iterable[Leftover], *, policy: Retention, now: int, entry_bytes: int
) -> list[tuple[Leftover, str]]:
    """The leftovers that have to be removed, and why: those that were not used for the longest time.

    Those that are leased count, and stay; those that could not be removed always have to be. The others are
    removed before any entry: they are of no use now.

    Args:
        now: microseconds since the epoch.
        entry_bytes: what all entries take.
    """
    remaining = sorted(leftovers, key=lambda leftover: leftover.last_used)
    size = entry_bytes + sum(leftover.bytes for leftover in remaining)
    chosen = []
    for leftover in remaining:
        if leftover.stay is Stay.NOT_REMOVED:
            reason = "it could not be removed before"
        else:
            reason = _too_old(policy, now - leftover.last_used) or _too_much(policy, 0, size)
        if leftover.stay is not Stay.LEASED and reason:
            chosen.append((leftover, reason))
            size -= leftover.bytes
    return chosen


def _too_old(policy: Retention, age: int) -> str:
    if policy.max_age is not None and age > policy.max_age:
        return f"not used for {units.duration(age)}"
    return ""


def _too_much(policy: Retention, count: int, size: int) -> str:
    if policy.max_entries is not None and count > policy.max_entries:
        return f"the cache may have {policy.max_entries} entries, and had {count}"
    if policy.max_bytes is not None and size > policy.max_bytes:
        return f"the cache may take {units.size(policy.max_bytes)}, and took {units.size(size)}"
    return ""


def _last(entries: Iterable[Entry], at: Callable[[Entry], float]) -> Collection[str]:
    """The name of the entry of each kind of a release for which a time is the latest."""
    last: dict[tuple[Release, str], Entry] = {}
    for entry in entries:
        what = (entry.release, entry.record.kind)
        known = last.get(what)
        if known is None or at(entry) >= at(known):
            last[what] = entry
    return {entry.name for entry in last.values()}
