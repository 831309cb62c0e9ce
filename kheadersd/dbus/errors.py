# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can go wrong with the bus, or with a call to another program on it."""

from __future__ import annotations

from typing import ClassVar

from ..errors import FREEDESKTOP_ERRORS, KheadersError


class ConnectionLost(KheadersError):
    """There is no connection to the bus, or not any more."""

    bus_name: ClassVar[str] = FREEDESKTOP_ERRORS + "Disconnected"


class NameTaken(KheadersError):
    """Another program owns the name."""

    bus_name: ClassVar[str] = FREEDESKTOP_ERRORS + "AddressInUse"


class BusError(KheadersError):
    """The called program answered with an error.

    Attributes:
        name: the error's name on the bus. For callers of the daemon it is another failure.
        sender: whose answer it is, a unique name, or the bus's own.
    """

    def __init__(self, name: str, message: str, sender: str = "") -> None:
        super().__init__(message or name)
        self.name = name
        self.sender = sender
