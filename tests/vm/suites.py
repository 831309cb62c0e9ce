"""Which of Debian's suites the guests are."""

from __future__ import annotations

import pytest

MAIN = "trixie"
"""All is proven with this one."""

everywhere = pytest.mark.suites(MAIN, "bookworm")
"""Marks a test of the main paths, which is run in a guest of each suite."""
