"""A fleet that boots at once, and its registry: ``python -m tests.bench.fleet [NODES [PUSHERS [N]]]``.

By hand, as root, N at a time: 500 take long on two cores. What a node costs depends on no other one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.support.fleet import run_fleet
from tests.support.oci_registry import running_registry

_LARGE, _KERNELS = 10_000, 50
_ARTIFACT = 5 << 20  # bytes of a real one, at most


def main(nodes: int = 500, pushers: int = 50, at_once: int = 16) -> None:
    with tempfile.TemporaryDirectory(prefix="kh-fleet-") as directory, running_registry() as registry:
        within = max(10.0, pushers / 2)
        found = run_fleet(Path(directory), registry, nodes, pushers, within=within, at_once=at_once)
    for_each = found.fetching / found.fetchers
    print(f"{found.nodes} nodes, {found.pushers} of which extracted and pushed, in {found.seconds:.0f} s")
    print(f"blobs uploaded: {found.uploads}, of two in the artifact; digests: {len(found.digests)}")
    print(
        f"requests of a node that pushes: {found.pushing / found.pushers:.1f}; that fetches: {for_each:.1f}"
    )
    print(
        f"bytes of a node that fetches (a small artifact): {found.fetched_bytes / found.fetchers:.0f}; "
        f"artifacts: {len(found.artifacts)}"
    )
    total = _LARGE * _ARTIFACT
    print(
        f"{_LARGE} nodes and {_KERNELS} kernels, each node once: {_LARGE * for_each:.0f} requests, "
        f"{total / 1e9:.0f} GB sent, {_KERNELS * _ARTIFACT / 1e6:.0f} MB stored"
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
