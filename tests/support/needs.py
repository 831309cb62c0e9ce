"""What a test needs that not every machine has."""

from __future__ import annotations

import os

import pytest


def needs_root(why: str) -> pytest.MarkDecorator:
    """Skip a test whose user is not root."""
    return pytest.mark.skipif(os.geteuid() != 0, reason=f"needs root: {why}")
