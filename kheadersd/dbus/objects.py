# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects on the bus: what a service declares, and how a call finds its method."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ..errors import UnknownInterface, UnknownMethod, UnknownObject
from ..system.files import read_text

if TYPE_CHECKING:
    from .credentials import Credentials

_PEER = "org.freedesktop.DBus.Peer"
_DATA = Path(__file__).parent.parent / "data"


class Answer(NamedTuple):
    """What a call to another program returned. The caller closes the descriptors; ``h`` values index them."""

    values: list[Any]
    fds: Sequence[int]


class Peer(Protocol):
    """The connection that a call came in on, as far as a method needs it; see `connection.Connection`."""

    @property
    def call(self) -> Callable[..., Awaitable[Answer]]:
        """`Connection.call`."""

    @property
    def portion(self) -> int:
        """The number of the portion of messages that is being handled, 0 between; see `transport.Stream`."""

    async def credentials(self, sender: str) -> Credentials:
        """The credentials of a caller."""

    def known_user(self, sender: str) -> int | None:
        """A caller's user ID, None if the bus was not asked for it yet."""


class Call:
    """A method call that has come in.

    Attributes:
        sender: the caller's unique name.
        path, interface, member: what was called; the interface is "" if the caller named none.
        args: the decoded arguments, which match the method's signature. Treat them as immutable.
        allow_interactive: the caller is prepared to wait while its user is asked for a password.
        connection: the connection it came in on.
        key: the same for calls of a method with the same arguments, and only for them; None where these are
            large.
    """

    __slots__ = (
        "allow_interactive", "args", "connection", "interface", "key", "member", "path", "sender",
    )  # fmt: skip

    def __init__(  # noqa: PLR0913 - what a D-Bus call is made of
        self,
        sender: str,
        path: str,
        interface: str,
        member: str,
        args: Sequence[Any],
        *,
        allow_interactive: bool,
        connection: Peer,
        key: Hashable = None,
    ) -> None:
        self.sender = sender
        self.path = path
        self.interface = interface
        self.member = member
        self.args = args
        self.allow_interactive = allow_interactive
        self.connection = connection
        self.key = key

    async def credentials(self) -> Credentials:
        """Who calls, as the bus knows it. Remembered while the caller stays on the bus.

        Raises:
            AccessDenied: the caller has gone.
            Timeout, ConnectionLost: the bus does not answer.
        """
        return await self.connection.credentials(self.sender)


class Reply:
    """An answer that is encoded already, and may carry descriptors, which are closed once it was sent."""

    __slots__ = ("body", "fds")

    def __init__(self, body: bytes, fds: Sequence[int] = ()) -> None:
        self.body = body
        self.fds = fds


Result = Sequence[Any] | Reply | None
"""The values of an answer, one for each complete type of the method's out signature; None for no values."""

Handler = Callable[[Call], Result | Awaitable[Result]]
"""Answers a call. What it returns directly is sent at once; an awaitable becomes a task.

A KheadersError becomes an error reply. The task is cancelled when the caller leaves the bus.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """
    Attributes:
        only_reads: only who gets the answer has anything of it: a call that wants none is left out.
        reads_at_once: the same holds where the handler answers at once, instead of by an awaitable.
    """

    in_signature: str
    out_signature: str
    handler: Handler
    only_reads: bool = False
    reads_at_once: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Property:
    """
    Attributes:
        signature: one complete type.
        get: the present value; cheap, called in the event loop.
        set: takes a value of the right type; None for a property that callers cannot set. It may raise as a
            method may, and announces the change itself.
        emits: as the annotation org.freedesktop.DBus.Property.EmitsChangedSignal.
    """

    signature: str
    get: Callable[[], Any]
    set: Callable[[Call, Any], Awaitable[None]] | None = None
    emits: Literal["true", "invalidates", "const", "false"] = "true"


@dataclasses.dataclass(frozen=True, slots=True)
class Interface:
    """
    Attributes:
        xml: the `<interface>` element, which introspection returns as it is.
    """

    name: str
    methods: Mapping[str, Method]
    properties: Mapping[str, Property]
    xml: str


def interface_xml(name: str, file: str = "freedesktop.xml") -> str:
    """The ``<interface>`` element of an interface, word for word as a file in ``data/`` has it."""
    text = read_text(_DATA / file)
    start = text.index(f'<interface name="{name}">')
    return text[start : text.index("</interface>", start)] + "</interface>"


class Objects:
    """The exported objects, the paths that lead to them, and the interfaces that all of these have."""

    def __init__(self) -> None:
        self._interfaces: dict[str, dict[str, Interface]] = {}
        self._methods: dict[tuple[str, str, str], Method] = {}
        self._standard: dict[str, Interface] = {}
        self._standard_methods: dict[tuple[str, str], Method] = {}

    def export(self, path: str, interfaces: Sequence[Interface]) -> None:
        """Add interfaces to the object at ``path``. A call without an interface gets the first that fits."""
        if not path.startswith("/") or (path != "/" and path.endswith("/")):
            raise ValueError(f"'{path}' is not an object path")
        known = self._interfaces.setdefault(path, {})
        for interface in interfaces:
            known[interface.name] = interface
            for member, method in interface.methods.items():
                self._methods[path, interface.name, member] = method
                self._methods.setdefault((path, "", member), method)

    def add_standard(self, interfaces: Sequence[Interface]) -> None:
        """Add interfaces that every object has, and every path that leads to one."""
        for interface in interfaces:
            self._standard[interface.name] = interface
            for member, method in interface.methods.items():
                self._standard_methods[interface.name, member] = method
                self._standard_methods.setdefault(("", member), method)

    def find(self, path: str, interface: str, member: str) -> Method:
        """The method that a call is for; the interface may be "".

        Raises:
            UnknownObject, UnknownInterface, UnknownMethod: there is none.
        """
        method = self._methods.get((path, interface, member))
        if method is not None:
            return method
        method = self._standard_methods.get((interface, member))
        if method is not None and (
            self.exists(path) or self._standard_methods.get((_PEER, member)) is method
        ):
            return method
        if not self.exists(path):
            raise UnknownObject(f"there is no object {path} here")
        if interface and interface not in self.interfaces(path) and interface not in self._standard:
            raise UnknownInterface(f"the object {path} has no interface {interface}")
        raise UnknownMethod(f"the object {path} has no method {f'{interface}.' if interface else ''}{member}")

    def exists(self, path: str) -> bool:
        """Whether there is an object at the path, or below it."""
        return path in self._interfaces or any(self._below(path))

    def interfaces(self, path: str) -> Mapping[str, Interface]:
        """What was exported at the path: empty for one that only leads to objects."""
        return self._interfaces.get(path, {})

    @property
    def standard(self) -> Mapping[str, Interface]:
        """The interfaces that all objects have."""
        return self._standard

    def children(self, path: str) -> list[str]:
        """The names of the nodes directly below a path, sorted."""
        return sorted({rest.partition("/")[0] for rest in self._below(path)})

    def _below(self, path: str) -> list[str]:
        prefix = path.rstrip("/") + "/"
        return [
            known[len(prefix) :] for known in self._interfaces if known.startswith(prefix) and known != prefix
        ]
