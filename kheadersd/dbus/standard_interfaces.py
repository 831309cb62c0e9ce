# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interfaces that the D-Bus specification wants every object to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import (
    FREEDESKTOP_ERRORS,
    InvalidArgs,
    KheadersError,
    PropertyReadOnly,
    UnknownInterface,
    UnknownProperty,
)
from ..names import PROPERTIES
from ..system.files import read_text
from .codec import Variant
from .objects import Call, Interface, Method, Objects, Property, interface_xml

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator


_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")


class NoMachineId(KheadersError):
    """This machine has no identity yet."""

    bus_name = FREEDESKTOP_ERRORS + "FileNotFound"


def add_standard_interfaces(objects: Objects) -> None:
    """Give all objects Introspectable, Peer and Properties."""
    standard = _Standard(objects)
    properties = {
        "Get": Method("ss", "v", standard.get, only_reads=True),
        "GetAll": Method("s", "a{sv}", standard.get_all, only_reads=True),
        "Set": Method("ssv", "", standard.set),
    }
    objects.add_standard(
        [
            Interface(
                "org.freedesktop.DBus.Introspectable",
                {"Introspect": Method("", "s", standard.introspect, only_reads=True)},
                {},
                interface_xml("org.freedesktop.DBus.Introspectable"),
            ),
            Interface(
                "org.freedesktop.DBus.Peer",
                {
                    "Ping": Method("", "", _ping, only_reads=True),
                    "GetMachineId": Method("", "s", _machine_id, only_reads=True),
                },
                {},
                interface_xml("org.freedesktop.DBus.Peer"),
            ),
            Interface(PROPERTIES, properties, {}, interface_xml(PROPERTIES)),
        ]
    )


def changed(interface: Interface, names: list[str]) -> list[Any]:
    """The values of a PropertiesChanged signal about these properties; the silent ones are left out."""
    values = {}
    invalidated = []
    for name in names:
        known = interface.properties[name]
        if known.emits == "true":
            values[name] = Variant(known.signature, known.get())
        elif known.emits == "invalidates":
            invalidated.append(name)
    return [interface.name, values, invalidated]


class _Standard:
    """The methods, for whatever path they are called on."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def introspect(self, call: Call) -> list[Any]:
        interfaces = [*self._objects.interfaces(call.path).values(), *self._objects.standard.values()]
        nodes = (f'<node name="{child}"/>' for child in self._objects.children(call.path))
        parts = [interface.xml.strip("\n") for interface in interfaces]
        return [_DOCTYPE + "\n".join(["<node>", *parts, *nodes, "</node>", ""])]

    def get(self, call: Call) -> list[Any]:
        known = self._property(call)
        return [Variant(known.signature, known.get())]

    def get_all(self, call: Call) -> list[Any]:
        values: dict[str, Variant] = {}
        for interface in self._interfaces(call):
            for name, known in interface.properties.items():
                if name not in values:
                    values[name] = Variant(known.signature, known.get())
        return [values]

    def set(self, call: Call) -> Awaitable[None]:
        known = self._property(call)
        _, name, value = call.args
        if known.set is None:
            raise PropertyReadOnly(f"the property {name} cannot be set")
        if value.signature != known.signature:
            raise InvalidArgs(f"the property {name} is of type '{known.signature}', not '{value.signature}'")
        return known.set(call, value.value)

    def _property(self, call: Call) -> Property:
        name = call.args[1]
        for interface in self._interfaces(call):
            if name in interface.properties:
                return interface.properties[name]
        where = call.args[0] or f"the object {call.path}"
        raise UnknownProperty(f"{where} has no property {name}")

    def _interfaces(self, call: Call) -> Iterator[Interface]:
        """The interface that is named in the first argument; all of them for ""."""
        name = call.args[0]
        exported = self._objects.interfaces(call.path)
        if not name:
            yield from exported.values()
        elif name in exported:
            yield exported[name]
        elif name not in self._objects.standard:
            raise UnknownInterface(f"the object {call.path} has no interface {name}")


def _ping(_call: Call) -> None:
    return None


def _machine_id(_call: Call) -> list[Any]:
    """Read anew each time, as a first boot may set it late. 33 bytes that are always in memory."""
    for path in _MACHINE_ID_FILES:
        try:
            machine_id = read_text(path).strip()
        except OSError:
            continue
        if machine_id:
            return [machine_id]
    raise NoMachineId(f"this machine has no identity: {' and '.join(_MACHINE_ID_FILES)} are missing or empty")
