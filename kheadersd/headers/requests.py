# SPDX-License-Identifier: LGPL-2.1-or-later
"""What callers ask for and what they are given, in the daemon's own terms."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from ..cache.entry import HEADERS
from ..sources.source import RANDOMISED
from .environment import environment

if TYPE_CHECKING:
    from pathlib import Path

    from ..cache.entry import Entry
    from ..host.host import Host
    from ..release import Release
    from ..sources.source import Tree


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """What a caller asks for.

    Attributes:
        sources: the sources to try, in this order.
        refresh: whether what is cached must not be used.
        ahead: whether no caller waits for it, so that it is done at a low priority.
    """

    release: Release
    sources: tuple[str, ...]
    refresh: bool = False
    ahead: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Served:
    """Headers that are there: a tree in place, or an entry of the cache.

    Attributes:
        host: whose headers they are.
        fresh: whether they were made for the request.
        entry: the cached entry, None for a tree in place.
        last_used: of the entry, microseconds since the epoch; 0 for a tree in place.
    """

    host: Host
    release: Release
    source: str
    tree: Tree
    fresh: bool = False
    entry: Entry | None = None
    last_used: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What makes bcc and bpftrace use the headers, see `environment`; {} for a vmlinux.h."""
        if self.entry is not None and self.entry.record.kind != HEADERS:
            return {}
        return environment(self.tree, self.release, self.host)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What callers who compile with these headers should know, as sentences."""
        return (RANDOMISED.format(self.release),) if self.tree.randomised else ()

    @property
    def path(self) -> Path:
        """What callers are told. Of a split tree it is the build tree, as kbuild takes it."""
        return self.tree.build_tree
