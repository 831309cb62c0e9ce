# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses of message buses, as in "Server Addresses" of the D-Bus specification."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_PLAIN = r"[-0-9A-Za-z_/.\\*]"  # the specification's "optionally-escaped" bytes
_VALUE = re.compile(rf"({_PLAIN}|%[0-9a-fA-F]{{2}})+")


class Address(NamedTuple):
    """An address at which a bus may listen."""

    transport: str
    options: dict[str, str]


def parse_address(address: str) -> list[Address]:
    """The addresses in a list of them, in the order in which they are to be tried.

    Raises:
        ValueError: the text is not a D-Bus address.
    """
    addresses = []
    for part in filter(None, address.split(";")):
        transport, colon, rest = part.partition(":")
        pairs = [option.partition("=") for option in filter(None, rest.split(","))]
        if not colon or not all(_VALUE.fullmatch(value) for _, _, value in pairs):
            raise ValueError(f"'{address}' is not a D-Bus address")
        options = {key: unquote(value, errors="surrogateescape") for key, _, value in pairs}
        addresses.append(Address(transport, options))
    if not addresses:
        raise ValueError(f"'{address}' is not a D-Bus address")
    return addresses


def system_bus_address() -> str:
    """Where the system bus is: ``DBUS_SYSTEM_BUS_ADDRESS``, or the standard socket."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"


def session_bus_address() -> str:
    """Where the session bus is: ``DBUS_SESSION_BUS_ADDRESS``, or the user's runtime directory.

    Raises:
        ValueError: there is no session bus.
    """
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return address
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    socket_path = Path(runtime, "bus")
    if socket_path.exists():
        return "unix:path=" + "".join(
            chr(byte) if re.fullmatch(_PLAIN, chr(byte)) else f"%{byte:02x}"
            for byte in os.fsencode(socket_path)
        )
    raise ValueError(
        f"there is no session bus: DBUS_SESSION_BUS_ADDRESS is not set and {socket_path} does not exist; "
        "start the program with dbus-run-session, or set the variable"
    )
