# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks ``a{sv}`` options: unknown keys and values of another type are refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

from ..errors import InvalidArgs
from ..names import MAX_REASON, SOURCE_NAMES
from ..pch.profiles import check_defines, check_headers

T = TypeVar("T")

_MAX_PATH = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Option(Generic[T]):
    """An option: its D-Bus signature, its value when it is left out, and a check of its value.

    `check` returns the value to be used, or raises InvalidArgs.
    """

    name: str
    signature: str
    default: T
    check: Callable[[T], T]


def _as_it_is(value: T) -> T:
    return value


def _check_sources(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise InvalidArgs("option 'sources' is empty: leave it out to try all sources")
    for name in names:
        if name not in SOURCE_NAMES:
            raise InvalidArgs(
                f"option 'sources' has {_short(name)}: the sources are {', '.join(SOURCE_NAMES)}"
            )
    if len(set(names)) != len(names):
        raise InvalidArgs("option 'sources' names a source twice")
    return tuple(names)


def _check_reason(reason: str) -> str:
    if len(reason) > MAX_REASON:
        raise InvalidArgs(f"option 'reason' has {len(reason)} characters, at most {MAX_REASON} are kept")
    if not reason.isprintable():
        raise InvalidArgs("option 'reason' has control characters")
    return reason


def _check_compiler(name: str) -> str:
    if not name or len(name) > _MAX_PATH or not name.isprintable():
        raise InvalidArgs(
            "option 'compiler' is the name of a compiler, such as 'clang-16', or its absolute path: "
            f"leave it out, or let it have 1 to {_MAX_PATH} printable characters"
        )
    return name


def _check_header_list(names: Sequence[str]) -> tuple[str, ...]:
    if not names:
        raise InvalidArgs("option 'headers' is empty: leave it out to have those of the profile")
    return tuple(check_headers(names))


SOURCES: Option[tuple[str, ...]] = Option("sources", "as", (), _check_sources)
"""Try only these sources, in this order; () when the configured ones are meant."""
REFRESH = Option("refresh", "b", default=False, check=_as_it_is)
"""Do not use what is cached."""
FORCE = Option("force", "b", default=False, check=_as_it_is)
"""Remove an entry although it is leased; drop headers although no source can restore them."""
REASON = Option("reason", "s", "", _check_reason)
"""What a lease is held for, at most 256 printable characters."""

COMPILER = Option("compiler", "s", "", _check_compiler)
"""A plain name or an absolute path; "" when the default is meant."""
HEADERS: Option[tuple[str, ...]] = Option("headers", "as", (), _check_header_list)
"""Exactly these headers; () when those of the profile are meant."""
DEFINES: Option[tuple[str, ...]] = Option("defines", "as", (), check_defines)
"""Macros that hold for a caller's own list of headers, as in ``MAX_PID=32768``."""
DROP_RESTORED = Option("drop_restored", "b", default=False, check=_as_it_is)
"""Drop again the headers that were dropped before, and came back for this call."""
KEEP_HEADERS = Option("keep_headers", "b", default=True, check=_as_it_is)
"""Whether the headers stay in the cache besides what is precompiled."""


class Options:
    """The checked options of one call."""

    __slots__ = ("_given",)

    def __init__(self, given: Mapping[str, object], *allowed: Option[Any]) -> None:
        """Check ``given``, a decoded ``a{sv}``, against the options a method takes.

        Raises:
            InvalidArgs: a key is unknown, or a value has another type or is out of its range.
        """
        self._given: dict[str, object] = {}
        if not given:
            return  # most calls have none
        known = {option.name: option for option in allowed}
        for name, variant in given.items():
            option = known.get(name)
            if option is None:
                raise InvalidArgs(f"unknown option {_short(name)}{_takes(known)}")
            signature = getattr(variant, "signature", None)
            if signature != option.signature:
                raise InvalidArgs(f"option '{name}' is of type '{option.signature}', not '{signature}'")
            self._given[name] = option.check(getattr(variant, "value", None))

    def __getitem__(self, option: Option[T]) -> T:
        return cast("T", self._given.get(option.name, option.default))


def _takes(known: Mapping[str, Option[Any]]) -> str:
    return f": this method takes {', '.join(known)}" if known else ": this method takes none"


def _short(text: str) -> str:
    """Something foreign, fit for a message."""
    return repr(text if len(text) <= 64 else text[:64] + "…")
