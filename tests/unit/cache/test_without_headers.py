"""Headers are dropped: what an entry keeps, and that it is an entry like any other."""

from __future__ import annotations

import dataclasses

import pytest

from kheadersd.cache.cache import Cache
from kheadersd.cache.without_headers import drop_headers
from kheadersd.errors import Corrupt
from kheadersd.system.disk import Vanished
from tests.support.made_up_cache import make, names
from tests.support.made_up_lifecycle import make_pch

HEADER = "include/linux/types.h"


def files(cache: Cache) -> list[str]:
    (entry,) = cache.entries()
    return sorted(str(path.relative_to(entry.path)) for path in entry.path.rglob("*") if not path.is_dir())


def test_only_what_is_needed_and_the_directories_above_it(cache: Cache) -> None:
    entry = make(cache).entry
    published = drop_headers(cache, entry, [HEADER, "include/generated"])
    cache.insert(published.entry)
    assert files(cache) == [HEADER]
    assert (published.entry.path / "include/generated").is_dir()
    assert published.entry.verify() == []


def test_the_record(cache: Cache) -> None:
    entry = make(cache).entry
    left = drop_headers(cache, entry, [HEADER]).entry
    kept = {"headers_kept", "files", "bytes", "manifest_sha256"}
    changed = {
        field.name
        for field in dataclasses.fields(entry.record)
        if getattr(entry.record, field.name) != getattr(left.record, field.name)
    }
    assert changed == kept
    assert not left.has_headers
    assert (left.record.files, left.name) == (1, entry.name)
    assert left.record.bytes == 3 * 4096, "include, include/linux and a small file"


def test_what_was_precompiled_stays_at_the_same_path(cache: Cache) -> None:
    entry = make(cache).entry
    pch = make_pch(cache, entry)
    content = pch.path.read_bytes()
    left = drop_headers(cache, entry, []).entry
    (again,) = left.pchs.values()
    assert (again.path, again.record) == (pch.path, pch.record)
    assert pch.path.read_bytes() == content
    assert (pch.path.parent / "include/bpf").is_symlink()
    assert not again.is_intact(), "it is verified before it is served again"
    assert again.verify()


def test_what_is_not_there_cannot_be_kept(cache: Cache) -> None:
    entry = make(cache).entry
    with pytest.raises(Corrupt, match=r"include/none.h is needed"):
        drop_headers(cache, entry, ["include/none.h"])
    assert names(cache.directory) == [entry.name]
    assert entry.is_intact()


def test_a_needed_header_vanishes(cache: Cache) -> None:
    entry = make(cache).entry
    (entry.path / HEADER).unlink()
    with pytest.raises(Vanished):
        drop_headers(cache, entry, [HEADER])
    assert names(cache.directory) == [entry.name]
