"""Every failure a caller can see: one class an error, each knowing its name on the bus.

A message names what was tried, why it failed and, where there is something, what the reader can do.
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


class NotAvailable(KheadersError):
    """No source has headers for the release; the message says why not, source by source."""

    bus_name = PROVIDE_ERRORS + "NotAvailable"


class NotCached(KheadersError):
    """There is nothing for the release now, and the call was one that never makes anything."""

    bus_name = PROVIDE_ERRORS + "NotCached"


class ReleaseMismatch(KheadersError):
    """The archive or module file that was found is another kernel's."""

    bus_name = PROVIDE_ERRORS + "ReleaseMismatch"


class Corrupt(KheadersError):
    """An archive is damaged, incomplete or unsafe; the message names the member."""

    bus_name = PROVIDE_ERRORS + "Corrupt"


class NoSpace(KheadersError):
    """The file system of the cache is full, or would be."""

    bus_name = PROVIDE_ERRORS + "NoSpace"


class InUse(KheadersError):
    """The entry is leased, or the module is needed by an extraction."""

    bus_name = PROVIDE_ERRORS + "InUse"


class ModuleFailed(KheadersError):
    """The kheaders module could not be loaded or unloaded."""

    bus_name = PROVIDE_ERRORS + "ModuleFailed"


class UnknownProfile(KheadersError):
    """There is no profile of that name; the message names those that there are."""

    bus_name = PROVIDE_ERRORS + "UnknownProfile"


class CompileFailed(KheadersError):
    """A compiler, or another program that makes something from a kernel, failed; with its first lines."""

    bus_name = PROVIDE_ERRORS + "CompileFailed"


class Timeout(KheadersError):
    """Something took longer than it may."""

    bus_name = PROVIDE_ERRORS + "Timeout"


class InvalidArgs(KheadersError):
    """An argument, option or signature is not what the method takes."""

    bus_name = FREEDESKTOP_ERRORS + "InvalidArgs"


class AccessDenied(KheadersError):
    """The caller may not do this."""

    bus_name = FREEDESKTOP_ERRORS + "AccessDenied"


class InteractiveAuthorizationRequired(KheadersError):
    """The caller may do this after authenticating, and did not allow us to ask."""

    bus_name = FREEDESKTOP_ERRORS + "InteractiveAuthorizationRequired"


class LimitsExceeded(KheadersError):
    """Too much of something: calls in flight, leases, bytes in a message."""

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
