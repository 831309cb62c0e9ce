# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blocking calls on a bus by libsystemd, see sd-bus(3).

Every host with systemd has it, and it takes 2 ms to load; asyncio and a D-Bus library of Python take 50.
"""

from __future__ import annotations

import ctypes
import os
import time

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    Listener = Callable[["Signal"], None]

_LIBRARY = "libsystemd.so.0"
_CONNECTING = 10.0  # seconds
_TURN = 1.0  # seconds to wait at a time: a signal of the system may come just before
_EINTR = 4  # no import of errno, which a small tool has not loaded
_FIRST_DESCRIPTOR = 3  # the others are a program's standard input and output, also where it has none
_TEXTS = "sog"
_FLAG, _DESCRIPTOR = "b", "h"
_PLAIN: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, ctypes.c_char_p),
    "y": ctypes.c_uint8,
    "n": ctypes.c_int16,
    "q": ctypes.c_uint16,
    "i": ctypes.c_int32,
    "u": ctypes.c_uint32,
    "x": ctypes.c_int64,
    "t": ctypes.c_uint64,
    "d": ctypes.c_double,
    _FLAG: ctypes.c_int,
    _DESCRIPTOR: ctypes.c_int,
}
"""The types of D-Bus that are no containers, as libsystemd takes and gives them."""


class Descriptor(int):
    """A file descriptor among the values of an answer; its receiver closes it."""


class CannotAsk(Exception):
    """There is no libsystemd, no bus or no answer, or a value cannot be sent; the text says which."""


class NoAnswer(CannotAsk):
    """The bus, or the called program, does not answer in time."""


class BusLost(CannotAsk):
    """The connection is gone."""


class ErrorReply(Exception):
    """The answer is an error, of the called program or of the bus; the text is its message."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class Method:
    """A method of a program's object."""

    __slots__ = ("interface", "member", "path", "service")

    def __init__(self, service: str, path: str, interface: str, member: str) -> None:
        self.service = service
        self.path = path
        self.interface = interface
        self.member = member


class Signal:
    """A signal that came while an answer was waited for."""

    __slots__ = ("member", "path", "values")

    def __init__(self, path: str, member: str, values: list[Any]) -> None:
        self.path = path
        self.member = member
        self.values = values


class _Error(ctypes.Structure):
    """sd_bus_error, see sd-bus-errors(3)."""

    _fields_ = (("name", ctypes.c_char_p), ("message", ctypes.c_char_p), ("need_free", ctypes.c_int))


class Bus:
    """A connection, for one thread."""

    def __init__(self, *, session: bool) -> None:
        """
        Args:
            session: connect to the session bus instead of the system bus.

        Raises:
            NoAnswer: the bus does not let this program in within `_CONNECTING` seconds.
            CannotAsk: there is no bus, or none with a socket of this host.
        """
        self._listener: Listener | None = None
        self._sender = ""
        self._library = _load()
        self._bus = ctypes.c_void_p()
        # libsystemd would also run a program that an address names.
        address = os.environ.get("DBUS_SESSION_BUS_ADDRESS" if session else "DBUS_SYSTEM_BUS_ADDRESS", "")
        if not all(part.startswith("unix:") for part in filter(None, address.split(";"))):
            raise CannotAsk(f"an address of the bus is not one of a unix socket: {address}")
        opener = "sd_bus_open_user" if session else "sd_bus_open_system"
        self._do(opener, ctypes.byref(self._bus))
        try:
            deadline = time.monotonic() + _CONNECTING
            while not self._do("sd_bus_is_ready", self._bus):
                self._process(deadline)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the bus."""
        self._library.sd_bus_close_unref(self._bus)

    def listen(self, sender: str, listener: Listener) -> None:
        """Call ``listener`` with each signal of a sender that comes while an answer is waited for.

        Those of others are not read: anybody can send some, with file descriptors.

        Args:
            sender: a unique name.
        """
        self._sender, self._listener = sender, listener

    def call(
        self,
        method: Method,
        signature: str,
        values: Sequence[Any],
        *,
        seconds: float,
        interactive: bool = False,
    ) -> list[Any]:
        """Call a method. A handler of a signal of the operating system runs meanwhile, and may raise.

        Args:
            values: in Python's types; a variant is a pair of its signature and its value.
            seconds: how long to wait for the answer.
            interactive: whether polkit may ask the user.

        Returns:
            The values of the answer, without variants around them.

        Raises:
            NoAnswer: there is no answer in time.
            BusLost: the bus is gone.
            CannotAsk: a value is not of its type.
            ErrorReply: the answer is an error.
        """
        call, cookie = ctypes.c_void_p(), ctypes.c_uint64()
        names = (method.service, method.path, method.interface, method.member)
        try:
            new = (self._bus, ctypes.byref(call), *(name.encode() for name in names))
            self._do("sd_bus_message_new_method_call", *new)
            for kind, value in zip(_split(signature), values, strict=True):
                self._put(call, kind, value)
            self._do("sd_bus_message_set_allow_interactive_authorization", call, int(interactive))
            self._do("sd_bus_send", self._bus, call, ctypes.byref(cookie))
        finally:
            self._library.sd_bus_message_unref(call)
        deadline = time.monotonic() + seconds
        while (reply := self._process(deadline, cookie.value)) is None:
            pass
        try:
            if error := self._library.sd_bus_message_get_error(reply):
                name, message = error.contents.name or b"", error.contents.message or b""
                raise ErrorReply(name.decode(), message.decode(errors="replace"))
            return list(self._rest(reply))
        finally:
            self._library.sd_bus_message_unref(reply)

    def _process(self, deadline: float, awaited: int = 0) -> ctypes.c_void_p | None:
        """Send or receive a message, or wait until that can be done; the answer to a call, if it came.

        Not by sd_bus_call: since systemd 254 it waits on after a signal of the system, and Python is late.

        Args:
            awaited: the number of the call.
        """
        message, number = ctypes.c_void_p(), ctypes.c_uint64()
        try:
            is_idle = self._do("sd_bus_process", self._bus, ctypes.byref(message)) == 0
            left = deadline - time.monotonic()
            if is_idle and left > 0:
                limit = ctypes.c_uint64(int(min(left, _TURN) * 1e6))
                self._do("sd_bus_wait", self._bus, limit, allowed=_EINTR)
        except CannotAsk as error:
            raise BusLost(f"the connection to the bus is gone: {error}") from None
        if is_idle and left <= 0:
            raise NoAnswer("there is no answer in time")
        if not message:
            return None
        is_answer = self._library.sd_bus_message_get_reply_cookie(message, ctypes.byref(number)) >= 0
        if is_answer and number.value == awaited:
            return message
        try:
            self._hear(message)
        finally:
            self._library.sd_bus_message_unref(message)
        return None

    def _hear(self, message: ctypes.c_void_p) -> None:
        def text(of: str) -> str:
            found: bytes | None = getattr(self._library, f"sd_bus_message_get_{of}")(message)
            return (found or b"").decode()

        if self._listener is None or text("sender") != self._sender:
            return
        if self._do("sd_bus_message_is_signal", message, None, None):
            self._listener(Signal(text("path"), text("member"), list(self._rest(message))))

    def _do(self, function: str, *arguments: object, allowed: int = 0) -> int:
        """Call a function, which returns a negative errno where it fails."""
        result = int(getattr(self._library, function)(*arguments))
        if result < 0 and -result != allowed:
            raise CannotAsk(f"{function}: {os.strerror(-result)}")
        return result

    def _put(self, message: ctypes.c_void_p, kind: str, value: Any) -> None:
        if kind in _TEXTS:
            if "\0" in value:
                raise CannotAsk("a text has a NUL")
            text = ctypes.c_char_p(value.encode(errors="surrogateescape"))
            self._do("sd_bus_message_append_basic", message, _letter(kind), text)
        elif kind in _PLAIN:
            number = ctypes.byref(_PLAIN[kind](value))
            self._do("sd_bus_message_append_basic", message, _letter(kind), number)
        elif kind == "v":
            self._put_container(message, kind, value[0], [value])
        elif kind.startswith("{"):
            pair = kind[1:-1]
            self._put_container(message, "e", pair, zip(_split(pair), value, strict=True))
        else:  # an array; a dictionary is one of pairs
            items = value.items() if kind.startswith("a{") else value
            self._put_container(message, "a", kind[1:], ((kind[1:], item) for item in items))

    def _put_container(
        self, message: ctypes.c_void_p, letter: str, contents: str, items: Iterable[tuple[str, Any]]
    ) -> None:
        self._do("sd_bus_message_open_container", message, _letter(letter), contents.encode())
        for kind, item in items:
            self._put(message, kind, item)
        self._do("sd_bus_message_close_container", message)

    def _rest(self, message: ctypes.c_void_p) -> Iterator[Any]:
        """What has not been read of a message, or of the container in it that was entered."""
        while not self._do("sd_bus_message_at_end", message, 0):
            yield self._next(message)

    def _next(self, message: ctypes.c_void_p) -> Any:
        kind, contents = ctypes.c_char(), ctypes.c_char_p()
        self._do("sd_bus_message_peek_type", message, ctypes.byref(kind), ctypes.byref(contents))
        letter = kind.value.decode()
        if letter in _PLAIN:
            found = _PLAIN[letter]()
            self._do("sd_bus_message_read_basic", message, kind, ctypes.byref(found))
            return _plain(letter, found.value)
        inside = contents.value or b""  # a copy: the next look may overwrite it
        self._do("sd_bus_message_enter_container", message, kind, inside)
        items = list(self._rest(message))
        self._do("sd_bus_message_exit_container", message)
        if letter == "v":
            return items[0]
        return dict(items) if inside.startswith(b"{") else items


def _load() -> ctypes.CDLL:
    """The library, with what its functions return that is no int.

    Raises:
        CannotAsk: there is none, or one that lacks functions.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
        library.sd_bus_message_get_error.restype = ctypes.POINTER(_Error)
        for part in ("sender", "path", "member"):
            getattr(library, f"sd_bus_message_get_{part}").restype = ctypes.c_char_p
        for function in ("sd_bus_close_unref", "sd_bus_is_ready"):  # the youngest, of systemd 241 and 237
            getattr(library, function)
    except (OSError, AttributeError) as error:
        raise CannotAsk(f"{_LIBRARY} cannot be used: {error}") from None
    return library


def _plain(letter: str, value: Any) -> Any:
    if letter in _TEXTS:
        return value.decode()
    if letter == _FLAG:
        return bool(value)
    if letter == _DESCRIPTOR:  # the message closes its own
        import fcntl  # a tool is given no descriptors

        return Descriptor(fcntl.fcntl(value, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR))
    return value


def _letter(kind: str) -> ctypes.c_char:
    return ctypes.c_char(kind.encode())


def _split(signature: str) -> Iterator[str]:
    """The complete types of a signature without structures: "sa{sv}" is "s" and "a{sv}"."""
    start = depth = 0
    for end, letter in enumerate(signature, 1):
        depth += (letter == "{") - (letter == "}")
        if not depth and letter != "a":
            yield signature[start:end]
            start = end
