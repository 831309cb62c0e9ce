# SPDX-License-Identifier: LGPL-2.1-or-later
"""How replies, signals and Describe show headers, entries and precompiled headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dbus.codec import Variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..headers.requests import Served
    from ..pch.requests import ServedPch

_SIGNATURES: dict[type, str] = {bool: "b", str: "s", int: "t", list: "as", dict: "a{ss}"}
_OF_32_BITS = ("files", "pch_count")


def variants(values: Mapping[str, object]) -> dict[str, Variant]:
    """Values as ``a{sv}``, by their types: lists are of text, numbers have 64 bits but for a few keys."""
    return {
        key: Variant("u" if key in _OF_32_BITS else _SIGNATURES[type(value)], value)
        for key, value in values.items()
    }


def details(served: Served) -> dict[str, object]:
    """Headers as the details of a reply."""
    values: dict[str, object] = {
        "release": served.release,
        "source": served.source,
        "source_tree": str(served.tree.source_tree),
        "build_tree": str(served.tree.build_tree),
        "fresh": served.fresh,
        "environment": dict(served.environment),
    }
    if served.warnings:
        values["warnings"] = list(served.warnings)
    if served.entry is not None:
        values |= _of_entry(served.entry) | {"pch_count": len(served.entry.pchs)}
    return values


def entry_details(served: Served) -> dict[str, object]:
    """A cached entry as ListEntries shows it: with the artifacts that its precompiled headers came from."""
    pchs = served.entry.pchs.values() if served.entry is not None else ()
    origins = sorted(pch.record.origin for pch in pchs if pch.record.origin)
    return details(served) | ({"pch_origins": origins} if origins else {})


def pch_details(served: ServedPch, headers: Served) -> dict[str, object]:
    """A precompiled header as the details of a reply.

    Args:
        headers: those that it was made from.
    """
    record = served.pch.record
    values = details(headers) | _of_pch(served.pch)
    values |= {"fresh": served.fresh, "consumer": served.profile.consumer, "pch_bytes": record.bytes}
    if served.library:
        values |= {"library": served.library, "library_file": served.library_file}
    if served.why_kept:
        values["why_kept"] = served.why_kept
    if record.backend:
        values["backend_arguments"] = list(record.backend)
    return values


def describe_entry(entry: Entry) -> dict[str, object]:
    """An entry as Describe shows it."""
    return _of_entry(entry) | {
        "release": entry.release,
        "path": str(entry.path),
        "source": entry.record.source,
        "build_id": entry.record.build_id,
        "durable": entry.is_durable,
        "pchs": [
            _of_pch(pch) | {"path": str(pch.path), "bytes": pch.record.bytes, "made_at": pch.record.made_at}
            for pch in entry.pchs.values()
        ],
    }


def _of_entry(entry: Entry) -> dict[str, object]:
    record = entry.record
    return {
        "origin": record.origin,
        "digest": record.digest,
        "bytes": entry.bytes,
        "files": record.files,
        "extracted_at": record.extracted_at,
        "last_used": entry.last_used,
        "kind": record.kind,
        "headers_kept": entry.has_headers,
    }


def _of_pch(pch: Pch) -> dict[str, object]:
    record = pch.record
    return {
        "key": record.key,
        "profile": record.profile,
        "compiler": record.compiler,
        "compiler_version": record.compiler_version,
        "headers": list(record.headers),
        "pch_origin": record.origin,
    }
