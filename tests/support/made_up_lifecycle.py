"""A cache with its lifecycle, made-up entries, and what an observer is told of them."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import TYPE_CHECKING

from kheadersd.cache.lifecycle import Lifecycle
from kheadersd.cache.pch_files import NAME, Pch, PchRecord, PchStaging
from kheadersd.config import Config
from kheadersd.host.host import Host
from tests.support.in_process import Kept

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from kheadersd.cache.cache import Cache
    from kheadersd.cache.entry import Entry
    from kheadersd.cache.leases import Leases
    from kheadersd.cache.pch_files import Pch


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.removed: list[tuple[str, str]] = []
        self.on_change: Callable[[], object] = lambda: None

    def entry_added(self, entry: Entry) -> None:
        self.added.append(entry.name)

    def entry_removed(self, entry: Entry, reason: str) -> None:
        self.removed.append((entry.name, reason))

    def pch_added(self, pch: Pch) -> None: ...

    def changed(self) -> None:
        self.on_change()


@dataclasses.dataclass
class MadeUp:
    """All of it; ``host`` has no kernel until `install`."""

    cache: Cache
    leases: Leases
    host: Host
    config: Config = dataclasses.field(default_factory=lambda: Config(max_age=None))
    told: Told = dataclasses.field(default_factory=Told)
    journal: Kept = dataclasses.field(default_factory=Kept)

    def __post_init__(self) -> None:
        self.lifecycle = Lifecycle(self.host, self.config, self.cache, self.leases, self.journal, self.told)

    def install(self, release: str) -> None:
        (self.host.root / "lib/modules" / release / "kernel").mkdir(parents=True)

    def lease(self, entry: Entry) -> int:
        """The descriptor of a lease on an entry."""
        return self.leases.grant(entry.name, entry.release, ":1.1", 0, os.getpid(), "", entry.inode)


def make_pch(cache: Cache, entry: Entry, *, key: str = "a", made_at: int = 0) -> Pch:
    """A precompiled header of an entry, which no program uses."""
    content = key.encode() * 1000
    staging = PchStaging(cache.directory)
    try:
        os.write(staging.file, content)
        record = PchRecord(
            key=key * 64,
            profile="default",
            headers=("linux/types.h",),
            compiler="/usr/bin/clang",
            compiler_version="16",
            compiler_digest="",
            text=(),
            backend=(),
            source="",
            canary="",
            library="",
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
            made_at=made_at,
        )
        pch = staging.publish(entry.directory, record)
    finally:
        staging.close()
    entry.pchs[record.key] = pch
    assert pch.path == entry.directory / "pch" / record.key / NAME
    return pch


def empty_host(root: Path) -> Host:
    (root / "lib/modules").mkdir(parents=True)
    return Host(root)
