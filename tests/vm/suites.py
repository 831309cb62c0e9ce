"""Which of Debian's suites the guests are."""

from __future__ import annotations

import pytest

MAIN = "trixie"
"""All is proven with this one."""

ALL = (MAIN, "bookworm")

everywhere = pytest.mark.suites(*ALL)
"""Marks a test of the main paths, which is run in a guest of each suite."""
