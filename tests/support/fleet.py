"""A fleet: nodes that boot at once, of which some have headers, and only a registry in common."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import re
import time
from typing import TYPE_CHECKING

from tests.support.archives import make_kheaders
from tests.support.registry_nodes import configuration, running_node
from tests.support.served_host import RELEASE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.oci_registry import Registry

_PATIENCE = 300  # seconds: many start at a time
_UPLOADED = re.compile(r"/v2/.*/blobs/uploads/.*")


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a fleet has cost its registry.

    Attributes:
        nodes: of which some pushed and the others fetched.
        uploads: blobs that were uploaded whole, the empty configuration among them.
        pushing, fetching: the requests of all nodes while they pushed, and while they fetched.
        fetched_bytes: of the answers to those that fetched.
        digests: of the headers that nodes have.
        artifacts: what the nodes that fetched name as the origin.
        seconds: that all of it took.
    """

    nodes: int
    pushers: int
    uploads: int
    pushing: int
    fetching: int
    fetched_bytes: int
    digests: set[str]
    artifacts: set[str]
    seconds: float

    @property
    def fetchers(self) -> int:
        return self.nodes - self.pushers


def run_fleet(
    directory: Path, registry: Registry, nodes: int, pushers: int, *, within: float, at_once: int
) -> Measured:
    """Let ``pushers`` nodes extract and push what the registry lacks, all at once; then let the others fetch.

    Args:
        within: seconds of the random wait before a push.
        at_once: how many nodes run at a time.
    """
    repository = f"{registry.name}/fleet/{directory.name.lower().strip('_')}"
    archive = make_kheaders(RELEASE)
    settings = configuration(repository, "PushNew=yes", "RegistryUnsigned=yes")

    def boot(number: int, words: tuple[str, ...]) -> tuple[str, str]:
        with running_node(
            directory / f"node{number}",
            registry,
            settings,
            lookaside=directory / "lookaside",
            patience=_PATIENCE,
        ) as node:
            if words:
                node.host.show(archive)
            details = node.do("get", RELEASE)
            if words:
                node.do(*words)
            return details["digest"], details["origin"]

    started, first = time.monotonic(), len(registry.requests())
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        push = functools.partial(boot, words=("push", "--new", "--within", str(within)))
        pushed = list(pool.map(push, range(pushers)))
        second = len(registry.requests())
        fetch = functools.partial(boot, words=())
        fetched = list(pool.map(fetch, range(pushers, nodes)))
    requests = registry.requests()
    pushing, fetching = requests[first:second], requests[second:]
    return Measured(
        nodes,
        pushers,
        sum(method == "PUT" and bool(_UPLOADED.match(path)) for method, path, *_ in pushing),
        len(pushing),
        len(fetching),
        sum(size for *_, size in fetching),
        {digest for digest, _ in pushed + fetched},
        {origin for _, origin in fetched},
        time.monotonic() - started,
    )
