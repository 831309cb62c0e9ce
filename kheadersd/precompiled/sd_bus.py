# SPDX-License-Identifier: LGPL-2.1-or-later
"""Blocking calls on a bus by libsystemd, see sd-bus(3).

Every host with systemd has it, and ctypes is imported in 2 ms; asyncio and a D-Bus library of Python take 50.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

_LIBRARY = "libsystemd.so.0"
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
    """There is no libsystemd, no bus, or no way to say this; the text says which."""


class ErrorReply(Exception):
    """The called program, or the bus for it, answered with an error; the text is its message."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


class _Error(ctypes.Structure):
    """sd_bus_error, see sd-bus-errors(3)."""

    _fields_ = (("name", ctypes.c_char_p), ("message", ctypes.c_char_p), ("need_free", ctypes.c_int))


class Bus:
    """A connection, for calls of one object, and for one thread.

    Args:
        service, path: the object.
        session: whether it is on the session bus instead of the system bus.
        seconds: how long to wait for each answer.

    Raises:
        CannotAsk: there is no bus.
    """

    def __init__(self, service: str, path: str, *, session: bool, seconds: float) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CannotAsk(f"{_LIBRARY} cannot be loaded: {error}") from None
        self._object = (service, path)
        self._limit = ctypes.c_uint64(int(seconds * 1e6))
        self._bus = ctypes.c_void_p()
        opener = "sd_bus_open_user" if session else "sd_bus_open_system"
        self._do(opener, ctypes.byref(self._bus))

    def close(self) -> None:
        """Leave the bus."""
        self._library.sd_bus_flush_close_unref(self._bus)

    def call(self, interface: str, member: str, signature: str, values: Sequence[Any]) -> list[Any]:
        """Call a method.

        Args:
            values: in Python's types; a variant is a pair of its signature and its value.

        Returns:
            The values of the answer, without variants around them.

        Raises:
            CannotAsk: the bus is gone, or a value is not of its type.
            ErrorReply: the answer is an error.
        """
        call, reply, error = ctypes.c_void_p(), ctypes.c_void_p(), _Error()
        names = (text.encode() for text in (*self._object, interface, member))
        try:
            self._do("sd_bus_message_new_method_call", self._bus, ctypes.byref(call), *names)
            for kind, value in zip(_split(signature), values, strict=True):
                self._put(call, kind, value)
            result = self._library.sd_bus_call(
                self._bus, call, self._limit, ctypes.byref(error), ctypes.byref(reply)
            )
            if result < 0:
                message = error.message or os.strerror(-result).encode()
                raise ErrorReply((error.name or b"").decode(), message.decode(errors="replace"))
            return list(self._rest(reply))
        finally:
            self._library.sd_bus_error_free(ctypes.byref(error))
            for message in (call, reply):
                self._library.sd_bus_message_unref(message)

    def _do(self, function: str, *arguments: object) -> int:
        result = int(getattr(self._library, function)(*arguments))
        if result < 0:
            raise CannotAsk(f"the bus cannot be asked: {function}: {os.strerror(-result)}")
        return result

    def _put(self, message: ctypes.c_void_p, kind: str, value: Any) -> None:
        if kind in _TEXTS:
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


def _plain(letter: str, value: Any) -> Any:
    if letter in _TEXTS:
        return value.decode()
    if letter == _FLAG:
        return bool(value)
    return Descriptor(os.dup(value)) if letter == _DESCRIPTOR else value  # the message closes its own


def _letter(kind: str) -> ctypes.c_char:
    return ctypes.c_char(kind.encode())


def _split(signature: str) -> Iterator[str]:
    """The complete types of a signature: "sa{sv}" is "s" and "a{sv}"; structures are not understood."""
    start = depth = 0
    for end, letter in enumerate(signature, 1):
        depth += (letter == "{") - (letter == "}")
        if not depth and letter != "a":
            yield signature[start:end]
            start = end
