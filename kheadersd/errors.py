# SPDX-License-Identifier: LGPL-2.1-or-later
"""The errors that a caller can get: one class for each, with its name on the bus.

A message says what was tried, why it failed and, where there is a remedy, what the reader can do.
"""

from __future__ import annotations

from typing import ClassVar

PROVIDE_ERRORS = "org.kheaders.Provide.Error."
FREEDESKTOP_ERRORS = "org.freedesktop.DBus.Error."


class KheadersError(Exception):
    """A failure that is reported to the caller as it is.

    Attributes:
        bus_name: the D-Bus error name, set by each class.
        message: one or two plain sentences.
    """

    bus_name: ClassVar[str] = FREEDESKTOP_ERRORS + "Failed"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def reworded(self, message: str) -> KheadersError:
        """An error of the same kind, whatever its constructor takes, with another message."""
        other = type(self).__new__(type(self), message)
        other.__dict__.update(self.__dict__)
        other.message = message
        return other


class NotAvailable(KheadersError):
    """No source has headers for the release; the message says why not, source by source."""

    bus_name = PROVIDE_ERRORS + "NotAvailable"


class NotCached(KheadersError):
    """Nothing is cached for the release, and the method does not extract, load or download anything."""

    bus_name = PROVIDE_ERRORS + "NotCached"


class ReleaseMismatch(KheadersError):
    """The archive or module file belongs to another kernel."""

    bus_name = PROVIDE_ERRORS + "ReleaseMismatch"


class Corrupt(KheadersError):
    """An archive is damaged, incomplete or unsafe; the message names the member."""

    bus_name = PROVIDE_ERRORS + "Corrupt"


class NoSpace(KheadersError):
    """The file system of the cache is full, or would be."""

    bus_name = PROVIDE_ERRORS + "NoSpace"


class InUse(KheadersError):
    """The entry is leased, or an extraction needs the module."""

    bus_name = PROVIDE_ERRORS + "InUse"


class ModuleFailed(KheadersError):
    """The kheaders module could not be loaded or unloaded."""

    bus_name = PROVIDE_ERRORS + "ModuleFailed"


class UnknownProfile(KheadersError):
    """There is no profile of that name; the message lists the profiles."""

    bus_name = PROVIDE_ERRORS + "UnknownProfile"


class CompileFailed(KheadersError):
    """A compiler, or bpftool, failed; the message has the first lines of its output."""

    bus_name = PROVIDE_ERRORS + "CompileFailed"


class Timeout(KheadersError):
    """An operation took longer than its limit."""

    bus_name = PROVIDE_ERRORS + "Timeout"


class InvalidArgs(KheadersError):
    """An argument, option or signature is not what the method takes."""

    bus_name = FREEDESKTOP_ERRORS + "InvalidArgs"


class AccessDenied(KheadersError):
    """The caller may not do this."""

    bus_name = FREEDESKTOP_ERRORS + "AccessDenied"


class InteractiveAuthorizationRequired(KheadersError):
    """The caller may do this after authentication, but did not allow the daemon to ask for it."""

    bus_name = FREEDESKTOP_ERRORS + "InteractiveAuthorizationRequired"


class LimitsExceeded(KheadersError):
    """A limit is reached: of calls in flight, of leases, or of bytes in a message."""

    bus_name = FREEDESKTOP_ERRORS + "LimitsExceeded"


class UnknownObject(KheadersError):
    """The path has no object."""

    bus_name = FREEDESKTOP_ERRORS + "UnknownObject"


class UnknownInterface(KheadersError):
    """The object lacks the interface."""

    bus_name = FREEDESKTOP_ERRORS + "UnknownInterface"


class UnknownMethod(KheadersError):
    """The interface lacks the method."""

    bus_name = FREEDESKTOP_ERRORS + "UnknownMethod"


class UnknownProperty(KheadersError):
    """The interface lacks the property."""

    bus_name = FREEDESKTOP_ERRORS + "UnknownProperty"


class PropertyReadOnly(KheadersError):
    """The property cannot be set."""

    bus_name = FREEDESKTOP_ERRORS + "PropertyReadOnly"
