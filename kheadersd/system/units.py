# SPDX-License-Identifier: LGPL-2.1-or-later
"""Numbers with their units, for messages."""

from __future__ import annotations


def size(count: int) -> str:
    """A number of bytes, as in "44.0 MiB"."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(microseconds: int) -> str:
    """A time in its largest unit, as in "3 hours"."""
    seconds = microseconds // 1_000_000
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
