"""Entries made for the tests by the real extractor, from small archives."""

from __future__ import annotations

import hashlib
import io
import threading
from typing import TYPE_CHECKING

from kheadersd.cache.entry import Record
from kheadersd.cache.extract import Extracted, extract
from kheadersd.formats.decompress import chunks
from kheadersd.release import Release
from kheadersd.sources.source import Archive, Layer, Limits, whole
from tests.support.archives import kheaders_files, make_kheaders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kheadersd.cache.cache import Cache
    from kheadersd.cache.entry import Entry
    from kheadersd.cache.staging import Published, Staging

RELEASE = Release("6.1.0-13-amd64")
SECOND = 1_000_000
NOON = 1_700_000_000 * SECOND


def archive(release: str = RELEASE, extra: Mapping[str, bytes] | None = None) -> Archive:
    data = make_kheaders(release, {**kheaders_files(release), **(extra or {})})
    layer = Layer("kheaders.tar.xz", lambda: chunks(lambda: io.BytesIO(data), "kheaders.tar.xz"), whole)
    return Archive(hashlib.sha256(data).hexdigest(), (layer,), "/sys/kernel/kheaders.tar.xz")


def extract_to(staging: Staging, source: Archive) -> Extracted:
    return extract(
        source, staging.tree_fd, limits=Limits(), report=lambda *_: None, cancelled=threading.Event()
    )


def record_of(release: Release, source: Archive, extracted: Extracted, extracted_at: int = NOON) -> Record:
    return Record(
        release=release,
        digest=source.digest,
        root="/",
        source="sysfs",
        origin=source.origin,
        origin_stamp="",
        build_id="",
        files=extracted.files,
        bytes=extracted.bytes,
        extracted_at=extracted_at,
    )


def make(
    cache: Cache, release: Release = RELEASE, extra: Mapping[str, bytes] | None = None, at: int = NOON
) -> Published:
    """Stage, extract, publish and insert; ``extra`` makes it another archive."""
    source = archive(release, extra)
    with cache.stage(release, source.digest) as staging:
        extracted = extract_to(staging, source)
        published = staging.publish(record_of(release, source, extracted, at), extracted.manifest)
    cache.insert(published.entry)
    return published


def make_durable(entry: Entry) -> bool:
    """What the daemon does in the background once an entry is published."""
    entry.sync()
    return entry.mark_durable()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
