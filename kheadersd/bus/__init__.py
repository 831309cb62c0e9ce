"""D-Bus: a connection that survives what others send, and the dispatch of calls to objects."""

from .callers import Credentials
from .connection import Answer, Connection, Signal
from .failures import BusError, ConnectionLost, NameTaken
from .library import Variant, encode, session_bus_address, system_bus_address
from .objects import Call, Interface, Method, Property, Reply

__all__ = [
    "Answer",
    "BusError",
    "Call",
    "Connection",
    "ConnectionLost",
    "Credentials",
    "Interface",
    "Method",
    "NameTaken",
    "Property",
    "Reply",
    "Signal",
    "Variant",
    "encode",
    "session_bus_address",
    "system_bus_address",
]
