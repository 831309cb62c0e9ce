# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of the daemon, as the properties, Describe and the status of the service show it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from .. import __version__
from ..dbus.objects import Property
from .replies import describe_entry

if TYPE_CHECKING:
    from .parts import Parts


def properties(parts: Parts) -> dict[str, Property]:
    """The properties of the interface."""
    cache, module = parts.cache, parts.module
    return {
        "Version": Property("s", lambda: __version__, emits="const"),
        "RunningRelease": Property("s", lambda: parts.host.running or "", emits="const"),
        "CacheDirectory": Property("s", lambda: str(cache.directory), emits="const"),
        "ModuleState": Property("s", module.state),
        "ModuleOwned": Property("b", lambda: module.is_owned),
        "Activity": Property("s", lambda: parts.progress.activity),
        "EntryCount": Property("u", lambda: len(cache.entries())),
        "CacheBytes": Property("t", cache.total_bytes),
        "LeaseCount": Property("u", lambda: len(parts.leases)),
        "LastError": Property("(ss)", lambda: list(parts.failures.last)),
    }


def summary(parts: Parts) -> str:
    """The state in one line."""
    entries, size = len(parts.cache.entries()), parts.cache.total_bytes()
    return (
        f"{parts.progress.activity}; {entries} entries, {size >> 20} MiB, {len(parts.leases)} leases; "
        f"kheaders is {parts.module.state()}"
    )


def _running_headers(parts: Parts) -> dict[str, str] | None:
    """Where the running kernel's headers are; {} if there are none, None if only a longer look can tell."""
    running = parts.host.running
    if running is None:
        return {}
    served = parts.existing.peek(running)
    if served is None:
        return {} if parts.existing.is_known(running) else None
    origin = served.entry.record.origin if served.entry is not None else ""
    return {"path": str(served.path), "source": served.source, "origin": origin}


def describe(parts: Parts) -> dict[str, object]:
    """All of the state, fit for JSON."""
    host, config, cache, leases = parts.host, parts.config, parts.cache, parts.leases
    name, message = parts.failures.last
    return {
        "version": __version__,
        "pid": os.getpid(),
        "time": time.time_ns() // 1000,
        "host": {
            "root": str(host.root),
            "running_release": host.running or "",
            "build_id": host.build_id,
        },
        "headers": _running_headers(parts),
        "module": {"state": parts.module.state(), "owned": parts.module.is_owned},
        "activity": parts.progress.activity,
        "cache": {
            "directory": str(cache.directory),
            "bytes": cache.total_bytes(),
            "entries": [
                describe_entry(entry) | {"leases": leases.held(entry.name)} for entry in cache.entries()
            ],
            "leftovers": [
                {"path": str(leftover.directory), "bytes": leftover.bytes, "stays": leftover.stay.value}
                for leftover in cache.leftovers
            ],
        },
        "leases": [
            {
                "release": lease.release,
                "sender": lease.sender,
                "uid": lease.uid,
                "pid": lease.pid,
                "reason": lease.reason,
                "since": lease.since,
            }
            for lease in leases.all()
        ],
        "last_error": {"name": name, "message": message},
        "sources": list(config.sources),
        "registry": {
            "repositories": [str(repository) for repository in config.registries],
            "first": config.registry_first,
            "unsigned": config.registry_unsigned,
            "push_new": config.push_new,
            "push_new_pchs": config.push_new and config.push_new_pchs,
        },
        "ahead": parts.ahead.describe(),
        "metrics": parts.metrics.describe(),
        "retention": {
            "max_entries": config.max_entries,
            "max_bytes": config.max_size,
            "max_age_seconds": config.max_age,
        },
    }
