"""A small fleet; `tests/bench/fleet.py` has a large one, by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.fleet import run_fleet
from tests.support.oci_registry import Registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: for an /etc of its own"),
]


def test_nodes_that_boot_at_once(registry: Registry, tmp_path: Path) -> None:
    found = run_fleet(tmp_path, registry, 6, 3, within=1.0, at_once=3)
    assert len(found.digests) == len(found.artifacts) == 1
    assert 2 <= found.uploads <= 3 * 2
    # Each looks at the tag, and gets the manifest and two blobs once: with two authentications, 6 requests.
    assert found.fetching <= 6 * found.fetchers
