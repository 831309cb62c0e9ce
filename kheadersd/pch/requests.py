# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests for precompiled headers and their answers, in the daemon's own terms."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..headers.consent import Caller
    from ..release import Release
    from .compilers import Compiler
    from .profiles import Profile


@dataclasses.dataclass(frozen=True, slots=True)
class PchRequest:
    """What a caller asks for.

    Attributes:
        headers: exactly these; () for those of the profile.
        compiler: a name or a path; "" for the default.
        keep_headers: whether the headers stay in the cache besides.
        force: drop them even if no source can restore them.
        defines: macros that hold for ``headers``, which are given.
        drop_restored: whether headers that were dropped, and come back for it, are dropped again; others
            stay, as do those that a program was given meanwhile.
        ahead: whether no caller waits for it: it is made at a low priority, and dropped headers are extracted
            only to make it.
    """

    release: Release
    profile: str
    headers: tuple[str, ...] = ()
    compiler: str = ""
    keep_headers: bool = True
    force: bool = False
    defines: tuple[str, ...] = ()
    ahead: bool = False
    drop_restored: bool = False


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ServedPch:
    """A precompiled header that is there.

    Attributes:
        arguments: all that the compiler needs, in this order.
        fresh: whether it was made for the request.
        library: the digest of the library that compiles programs, where that is not the compiler.
        library_file: see `Libbcc.file`.
        wanted: what the compiler was called: a name, a path, or "" for the default.
        why_kept: why the headers stay although the caller wants them dropped, else "".
    """

    entry: Entry
    pch: Pch
    compiler: Compiler
    profile: Profile
    arguments: tuple[str, ...]
    fresh: bool
    library: str = ""
    library_file: str = ""
    wanted: str = ""
    why_kept: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Base:
    """Access to the entries that the profiles of one kind are compiled from.

    Attributes:
        find: the entry of a release that is there, or None; its headers may have been dropped.
        is_current: whether an entry is what its source would give now; some microseconds.
        get: the entry of a release with its headers, made if it takes that. Raises KheadersError.
        why_not_restorable: why no source can give the headers of an entry again; "" if one can.
    """

    find: Callable[[Release], Awaitable[Entry | None]]
    is_current: Callable[[Entry], bool]
    get: Callable[[Release, Caller], Awaitable[Entry]]
    why_not_restorable: Callable[[Entry], Awaitable[str]]
