"""D-Bus: a connection that survives what others send, and the dispatch of calls to objects."""

from .address import session_bus_address, system_bus_address
from .codec import Variant, encode
from .connection import Connection, Signal
from .credentials import Credentials
from .errors import BusError, ConnectionLost, NameTaken
from .objects import Answer, Call, Interface, Method, Property, Reply

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
