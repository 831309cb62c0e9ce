# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests that failed or were refused: the journal's entries about them, and the property LastError."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..errors import (
    AccessDenied,
    InteractiveAuthorizationRequired,
    InUse,
    InvalidArgs,
    LimitsExceeded,
    NotCached,
    UnknownProfile,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import KheadersError
    from ..journal import Journal

# Refusals that say nothing about the state of the daemon.
_ORDINARY = (
    AccessDenied,
    InteractiveAuthorizationRequired,
    InUse,
    InvalidArgs,
    LimitsExceeded,
    NotCached,
    UnknownProfile,
)
# Seconds within which identical failures are logged once; the others are counted.
_REPEAT = 1.0


class Failures:
    """
    Attributes:
        last: bus name and message of the last failure that was no ordinary refusal, or ("", "").
    """

    def __init__(self, journal: Journal, changed: Callable[[], None]) -> None:
        """
        Args:
            changed: called when `last` has changed.
        """
        self.last = ("", "")
        self._journal = journal
        self._changed = changed
        self._logged: tuple[str, str | None] = ("", None)
        self._logged_at = 0.0

    def note(self, error: KheadersError, release: str | None, uid: int | None) -> None:
        """Note that a request failed or was refused.

        Args:
            release: as the caller wrote it, or the running one; None if the request was about none.
            uid: the caller's, None if it has left the bus.
        """
        if not isinstance(error, _ORDINARY):
            self.last = (error.bus_name, error.message)
            self._changed()
        now = asyncio.get_running_loop().time()
        again = (error.bus_name, release) == self._logged and now - self._logged_at < _REPEAT
        if not again:
            self._logged, self._logged_at = (error.bus_name, release), now
        self._journal.report_failure(error, again=again, release=release or None, client_uid=uid)
