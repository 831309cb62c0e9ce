# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the dynamic loader finds a shared library, ld.so(8), without loading it."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from .files import read_file

LOADER_CACHE = Path("/etc/ld.so.cache")

_DEFAULT_DIRECTORIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_MAX_CACHE = 16 << 20  # bytes; that of a desktop has 0.2 MB
_MAX_NAME = 4096

# glibc, sysdeps/generic/dl-cache.h: "struct cache_file_new" and "struct file_entry_new".
_MAGIC = b"glibc-ld.so.cache1.1"
_COUNT = struct.Struct("=I")
_ENTRY = struct.Struct("=iIIIQ")
_ENTRIES_AT = 48
# The kind of library that programs of this machine load, by the name of the machine in uname(2).
_KINDS = {"x86_64": 0x0303, "aarch64": 0x0A03}


def candidates(name: str, cache: Path = LOADER_CACHE) -> tuple[Path, ...]:
    """Where the loader looks for a library: as its cache says, then in its default directories.

    The first that is there is taken. Blocking, for a millisecond. A cache that is missing or damaged names
    nothing.

    Args:
        name: as in DT_NEEDED: "libbcc.so.0".
    """
    try:
        named = _named(read_file(cache, _MAX_CACHE), name.encode(), _KINDS.get(os.uname().machine))
    except (OSError, struct.error):
        named = []
    return tuple(dict.fromkeys((*named, *(Path(place, name) for place in _DEFAULT_DIRECTORIES))))


def _named(data: bytes, name: bytes, kind: int | None) -> list[Path]:
    """Raises: struct.error: the cache is damaged."""
    start = data.find(_MAGIC)  # some have a table of an older format before it
    if start < 0:
        return []
    (count,) = _COUNT.unpack_from(data, start + len(_MAGIC))
    found = []
    for index in range(count):
        entry = _ENTRY.unpack_from(data, start + _ENTRIES_AT + index * _ENTRY.size)
        flags, key, value, _, capabilities = entry
        if not data.startswith(name + b"\0", start + key) or kind not in (None, flags):
            continue
        path = data[start + value : start + value + _MAX_NAME].partition(b"\0")[0]
        # Those for some processors only are of no interest for a library that is never built so.
        if not capabilities and path.startswith(b"/"):
            found.append(Path(os.fsdecode(path)))
    return found
