"""Making an entry from an archive: stage, extract, check, publish. Blocking, all of it, for a thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .cache.entry import Record
from .errors import Corrupt, KheadersError, ReleaseMismatch
from .extraction.extract import Cancelled, extract
from .headers import Unusable, check_usable
from .sources import Why

if TYPE_CHECKING:
    import threading

    from .cache.cache import Cache, Published
    from .extraction.treewriter import Limits
    from .release import Release
    from .sources import Archive, Report


def make_entry(
    cache: Cache,
    release: Release,
    source: str,
    archive: Archive,
    limits: Limits,
    report: Report,
    cancelled: threading.Event,
) -> Published:
    """Extract an archive into a new entry, which appears complete or not at all.

    Raises:
        Corrupt: the archive is damaged, unsafe, or lacks headers that every kernel has.
        ReleaseMismatch: its headers are another kernel's.
        NoSpace: the file system of the cache is full, or would be.
        extract.Cancelled: ``cancelled`` was set.
        KheadersError: the disk failed, or somebody removed what was being made.
    """
    with cache.stage(release, archive.digest) as staging:
        extracted = extract(archive, staging.tree_fd, limits=limits, report=report, cancelled=cancelled)
        try:
            check_usable(staging.tree, staging.tree, release)
        except Unusable as unusable:
            raise _refusal(unusable, str(staging.tree) + "/", source, archive) from None
        if cancelled.is_set():
            raise Cancelled
        record = Record(
            release=release,
            digest=archive.digest,
            source=source,
            origin=archive.origin,
            origin_stamp=archive.origin_stamp,
            build_id=archive.build_id,
            files=extracted.files,
            bytes=extracted.bytes,
            extracted_at=time.time_ns() // 1000,
        )
        return cache.publish(staging, record, extracted.manifest)


def _refusal(unusable: Unusable, staged: str, source: str, archive: Archive) -> KheadersError:
    # The caller knows the archive, not the place where it was being extracted.
    message = f"{archive.origin} (source {source}): {unusable.message.replace(staged, '')}"
    if unusable.why is Why.OTHER_RELEASE:
        return ReleaseMismatch(message)
    return Corrupt(f"{message}; the archive has no usable headers")
