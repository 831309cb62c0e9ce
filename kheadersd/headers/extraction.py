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
from ..system.tasks import Cancelled, SharedWork, in_idle_thread, in_thread

if TYPE_CHECKING:
    from ..cache.cache import Cache
    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..cache.staging import Published
    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from ..sources.source import Archive, Limits
    from .requests import Request

# Somebody who removes the cache while an entry is made must not fail the request.
_ATTEMPTS = 3


class Extraction:
    """Makes entries, of one archive one at a time. Belongs to the event loop."""

    def __init__(self, lifecycle: Lifecycle, host: Host) -> None:
        self._root = str(host.root)
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._work = SharedWork()

    async def close(self) -> None:
        """Cancel all extractions, and wait until they have cleaned up behind themselves."""
        await self._work.close()

    async def entry(
        self,
        request: Request,
        source: str,
        archive: Archive,
        uid: int | None,
        limits: Limits,
        report: Report,
    ) -> tuple[Entry, bool]:
        """The entry for an archive that a source has found.

        Args:
            uid: of who asked for it.

        Returns:
            The entry, and whether it was made now. If nobody waits for it (``request.ahead``), an entry whose
            headers have gone will do.

        Raises:
            As `make_entry`.
        """
        # A refresh and an ordinary request for one archive are different work with the same result.
        key = (request.release, archive.digest, request.refresh, request.ahead)
        return await self._work.share(key, lambda: self._entry(request, source, archive, uid, limits, report))

    async def _entry(
        self,
        request: Request,
        source: str,
        archive: Archive,
        uid: int | None,
        limits: Limits,
        report: Report,
    ) -> tuple[Entry, bool]:
        async with self._cache.locks.of(entry_name(request.release, archive.digest)):
            if not request.refresh and (entry := await self._confirm(request, source, archive)):
                return entry, False
            return await self._make(request, source, archive, uid, limits, report), True

    async def _make(
        self,
        request: Request,
        source: str,
        archive: Archive,
        uid: int | None,
        limits: Limits,
        report: Report,
    ) -> Entry:
        run = in_idle_thread if request.ahead else in_thread
        started = time.monotonic()

        def keep(published: Published) -> None:
            # Even if nobody waits for it any more: it is in the cache.
            self._lifecycle.add(published, time.monotonic() - started, uid)

        for attempt in itertools.count(1):
            cancelled = threading.Event()
            work = (self._cache, request.release, self._root, source, archive, limits, report, cancelled)
            try:
                return (await run(make_entry, *work, cancelled=cancelled, keep=keep)).entry
            except Vanished:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    async def _confirm(self, request: Request, source: str, archive: Archive) -> Entry | None:
        """The entry that was made from the very same archive, if it is as it should be."""
        entry = self._cache.named(entry_name(request.release, archive.digest))
        if entry is None or not entry.is_intact():
            return None
        # Headers that somebody let go meanwhile come back only if somebody asks for them.
        if not entry.has_headers and not request.ahead:
            return None
        record = dataclasses.replace(
            entry.record,
            root=self._root,
            source=source,
            origin=archive.origin,
            origin_stamp=archive.origin_stamp,
            build_id=archive.build_id,
        )
        if not await self._lifecycle.update_origin(entry, record):
            return None
        entry.touch()
        return entry


def make_entry(
    cache: Cache,
    release: Release,
    root: str,
    source: str,
    archive: Archive,
    limits: Limits,
    report: Report,
    cancelled: threading.Event,
) -> Published:
    """Extract an archive into a new entry, which appears complete or not at all. Blocking.

    Raises:
        Corrupt: the archive is damaged, unsafe, or lacks headers that every kernel has.
        ReleaseMismatch: its headers are another kernel's.
        NoSpace: the file system of the cache is full, or would be.
        Cancelled: ``cancelled`` was set.
        KheadersError: the disk failed, or somebody removed what was being made.
    """
    with cache.stage(release, archive.digest) as staging:
        extracted = extract(archive, staging.tree_fd, limits=limits, report=report, cancelled=cancelled)
        try:
            check_usable(staging.tree, staging.tree, release, OF_ARCHIVES)
            randomised = configuration(staging.tree).is_randomised
        except Unusable as unusable:
            raise _refusal(unusable, str(staging.tree) + "/", source, archive) from None
        if cancelled.is_set():
            raise Cancelled
        record = Record(
            release=release,
            digest=archive.digest,
            root=root,
            source=source,
            origin=archive.origin,
            origin_stamp=archive.origin_stamp,
            build_id=archive.build_id,
            files=extracted.files,
            bytes=extracted.bytes,
            extracted_at=time.time_ns() // 1000,
            randomised=randomised,
        )
        return staging.publish(record, extracted.manifest)


def _refusal(unusable: Unusable, staged: str, source: str, archive: Archive) -> KheadersError:
    # The caller knows the archive, not the place where it was being extracted.
    message = f"{archive.origin} (source {source}): {unusable.message.replace(staged, '')}"
    if unusable.reason is Reason.OTHER_RELEASE:
        return ReleaseMismatch(message)
    return Corrupt(f"{message}; the archive has no usable headers")
