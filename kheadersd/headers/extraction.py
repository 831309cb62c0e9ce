# SPDX-License-Identifier: LGPL-2.1-or-later
"""From an archive to an entry: the one that there is already, if it is good, or a new one."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from typing import TYPE_CHECKING

from ..cache.entry import Record, entry_name
from ..cache.extract import extract
from ..errors import Corrupt, KheadersError, ReleaseMismatch
from ..sources.build_tree import Unusable, configuration
from ..sources.source import Reason
from ..sources.usable import OF_ARCHIVES, check_usable
from ..system.disk import Vanished
from ..system.tasks import IDLE_THREADS, THREADS, Cancelled, SharedWork, in_thread

if TYPE_CHECKING:
    from ..cache.cache import Cache
    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..cache.staging import Published
    from ..host.host import Host
    from ..progress import Report
    from ..sources.source import Archive, Limits
    from .requests import Request

# A program that removes the cache meanwhile must not make the request fail.
_ATTEMPTS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """An archive that a source has found for a request.

    Attributes:
        uid: of the caller; None if there is none.
    """

    request: Request
    source: str
    archive: Archive
    limits: Limits
    uid: int | None
    report: Report

    @property
    def name(self) -> str:
        """The name of the entry."""
        return entry_name(self.request.release, self.archive.digest)


class Extraction:
    """Extracts archives into entries, each archive once at a time. Belongs to the event loop."""

    def __init__(self, lifecycle: Lifecycle, host: Host) -> None:
        self._root = str(host.root)
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._work = SharedWork()

    async def close(self) -> None:
        """Cancel all extractions, and wait until they have cleaned up behind themselves."""
        await self._work.close()

    async def check_directory(self) -> None:
        """Make sure that there is a place for entries, and for what is downloaded.

        Raises:
            DiskError: there is none.
        """
        await in_thread(self._cache.lock)

    async def entry(self, found: Found) -> tuple[Entry, bool]:
        """The entry with the headers of an archive.

        Returns:
            The entry, and whether it was extracted now. Without a caller that waits (``request.ahead``), an
            entry whose headers were dropped will do.

        Raises:
            As `extract_entry`.
        """
        # A refresh and an ordinary request for one archive are different work with the same result.
        key = (found.name, found.request.refresh, found.request.ahead)
        return await self._work.share(key, lambda: self._entry(found))

    async def _entry(self, found: Found) -> tuple[Entry, bool]:
        async with self._cache.locks.of(found.name):
            if not found.request.refresh and (entry := await self._confirmed(found)):
                return entry, False
            return await self._extract(found), True

    async def _extract(self, found: Found) -> Entry:
        threads = IDLE_THREADS if found.request.ahead else THREADS
        started = time.monotonic()

        def keep(published: Published) -> None:
            # Even if no caller waits any more: it is in the cache.
            self._lifecycle.add(published, time.monotonic() - started, found.uid)

        for attempt in itertools.count(1):
            cancelled = threading.Event()
            work = (self._cache, self._root, found, cancelled)
            try:
                published = await in_thread(
                    extract_entry, *work, cancelled=cancelled, keep=keep, threads=threads
                )
                return published.entry
            except Vanished:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _confirmed(self, found: Found) -> Entry | None:
        """The entry that was extracted from the very same archive, if it is intact."""
        entry, archive = self._cache.named(found.name), found.archive
        if entry is None or not entry.is_intact():
            return None
        # Headers that were dropped come back only if a caller asks for them.
        if not entry.has_headers and not found.request.ahead:
            return None
        record = dataclasses.replace(
            entry.record,
            root=self._root,
            source=found.source,
            origin=archive.origin,
            origin_stamp=archive.origin_stamp,
            build_id=archive.build_id,
        )
        if not await self._lifecycle.update_origin(entry, record):
            return None
        entry.touch()
        return entry


def extract_entry(cache: Cache, root: str, found: Found, cancelled: threading.Event) -> Published:
    """Extract an archive into a new entry, which appears complete or not at all. Blocking.

    Args:
        root: of the host that the archive is of.

    Raises:
        Corrupt: the archive is damaged, unsafe, or lacks headers that every kernel has.
        ReleaseMismatch: its headers are another kernel's.
        NoSpace: the file system of the cache is full, or would be.
        Cancelled: ``cancelled`` was set.
        KheadersError: the disk failed, or another program removed what was being extracted.
    """
    archive, release = found.archive, found.request.release
    with cache.stage(release, archive.digest) as staging:
        extracted = extract(
            archive, staging.tree_fd, limits=found.limits, report=found.report, cancelled=cancelled
        )
        try:
            check_usable(staging.tree, staging.tree, release, OF_ARCHIVES)
            randomised = configuration(staging.tree).is_randomised
        except Unusable as unusable:
            raise _refusal(unusable, str(staging.tree) + "/", found) from None
        if cancelled.is_set():
            raise Cancelled
        record = Record(
            release=release,
            digest=archive.digest,
            root=root,
            source=found.source,
            origin=archive.origin,
            origin_stamp=archive.origin_stamp,
            build_id=archive.build_id,
            files=extracted.files,
            bytes=extracted.bytes,
            extracted_at=time.time_ns() // 1000,
            randomised=randomised,
        )
        return staging.publish(record, extracted.manifest)


def _refusal(unusable: Unusable, staged: str, found: Found) -> KheadersError:
    # The caller knows the archive, not the directory where it was being extracted.
    message = f"{found.archive.origin} (source {found.source}): {unusable.message.replace(staged, '')}"
    if unusable.reason is Reason.OTHER_RELEASE:
        return ReleaseMismatch(message)
    return Corrupt(f"{message}; the archive has no usable headers")
