# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of the daemon by libsystemd: every host with systemd has it, and bcc has loaded ctypes already."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")

_NAME, _PATH = b"org.kheaders.Provide", b"/org/kheaders/Provide"
_PROFILE = b"bcc-base"  # its list is replaced, its way of compiling is what is meant
_LIBRARY = "libsystemd.so.0"
_TIMEOUT = 300_000_000  # microseconds: the first time, a compiler runs
_MAX_FIELDS = 64


class Refused(Exception):
    """There is no precompiled header; its text says why, as the end of a sentence."""


class Precompiled:
    """What the daemon answers.

    Attributes:
        arguments: of libbcc, in this order.
        source_tree: the headers that it was made from.
        library, library_file: the libbcc that it was made for, see org.kheaders.Provide(5); "" if unknown.
    """

    __slots__ = ("arguments", "library", "library_file", "source_tree")

    def __init__(
        self, arguments: list[bytes], source_tree: str, library: str = "", library_file: str = ""
    ) -> None:
        self.arguments = arguments
        self.source_tree = source_tree
        self.library = library
        self.library_file = library_file


class _Error(ctypes.Structure):
    """sd_bus_error, see sd-bus-errors(3)."""

    _fields_ = (("name", ctypes.c_char_p), ("message", ctypes.c_char_p), ("need_free", ctypes.c_int))


def get_pch(
    release: str,
    headers: Sequence[str],
    defines: Sequence[str],
    *,
    drop_restored: bool = False,
    session: bool = False,
) -> Precompiled:
    """Have exactly these headers precompiled for libbcc, or get what is there. Blocking.

    Args:
        release: "" for the running kernel's.
        defines: as in ``MAX_PID=32768``, which hold for the headers too.
        drop_restored: whether headers that were dropped, and come back for this, are dropped again.
        session: ask the session bus, for trials.

    Raises:
        Refused: the daemon cannot be asked, or has a reason.
    """
    return _Bus(session=session).get_pch(release, headers, defines, drop_restored=drop_restored)


def get_headers(release: str, *, session: bool = False) -> str:
    """Have the headers extracted, or find them. Blocking; the arguments are those of `get_pch`.

    Returns:
        The path of the whole tree; "" where libbcc finds the headers by itself.

    Raises:
        Refused: as `get_pch`.
    """
    return _Bus(session=session).get_headers(release)


class _Bus:
    """The few functions of sd-bus(3) that this takes, which return a negative errno."""

    def __init__(self, *, session: bool) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise Refused(f"{_LIBRARY} cannot be loaded: {error}") from None
        self._bus = ctypes.c_void_p()
        opener = "sd_bus_open_user" if session else "sd_bus_open_system"
        self._do(opener, ctypes.byref(self._bus))

    def _do(self, function: str, *arguments: object) -> int:
        result = int(getattr(self._library, function)(*arguments))
        if result < 0:
            raise Refused(f"the bus cannot be asked: {function}: {os.strerror(-result)}")
        return result

    def get_pch(
        self, release: str, headers: Sequence[str], defines: Sequence[str], *, drop_restored: bool
    ) -> Precompiled:
        def put(call: ctypes.c_void_p) -> None:
            self._put(call, release.encode(errors="surrogateescape"))
            self._put(call, _PROFILE)
            self._open(call, "a", "{sv}")
            self._put_option(call, "headers", "as", headers)
            if defines:
                self._put_option(call, "defines", "as", defines)
            if drop_restored:
                self._put_option(call, "drop_restored", "b", ctypes.c_int(1))
            self._close(call)

        return self._call(b"GetPch", put, self._answer)

    def get_headers(self, release: str) -> str:
        def put(call: ctypes.c_void_p) -> None:
            self._put(call, release.encode(errors="surrogateescape"))
            self._open(call, "a", "{sv}")
            self._close(call)

        def answer(reply: ctypes.c_void_p) -> str:
            path, fields = self._read(reply), self._fields(reply)
            return path.decode() if fields.get(b"build_tree") == fields.get(b"source_tree") else ""

        return self._call(b"GetHeaders", put, answer)

    def _call(
        self, member: bytes, put: Callable[[ctypes.c_void_p], None], answer: Callable[[ctypes.c_void_p], T]
    ) -> T:
        """Call a method, once, and close the connection."""
        call, reply, error = ctypes.c_void_p(), ctypes.c_void_p(), _Error()
        try:
            self._do(
                "sd_bus_message_new_method_call",
                self._bus,
                ctypes.byref(call),
                *(_NAME, _PATH, _NAME, member),
            )
            put(call)
            result = self._library.sd_bus_call(
                self._bus, call, ctypes.c_uint64(_TIMEOUT), ctypes.byref(error), ctypes.byref(reply)
            )
            if result < 0:
                raise Refused((error.message or os.strerror(-result).encode()).decode(errors="replace"))
            return answer(reply)
        finally:
            self._library.sd_bus_error_free(ctypes.byref(error))
            for message in (call, reply):
                self._library.sd_bus_message_unref(message)
            self._library.sd_bus_flush_close_unref(self._bus)

    def _put(self, call: ctypes.c_void_p, text: bytes) -> None:
        self._do("sd_bus_message_append_basic", call, ctypes.c_char(b"s"), ctypes.c_char_p(text))

    def _open(self, call: ctypes.c_void_p, kind: str, signature: str) -> None:
        self._do("sd_bus_message_open_container", call, ctypes.c_char(kind.encode()), signature.encode())

    def _close(self, call: ctypes.c_void_p) -> None:
        self._do("sd_bus_message_close_container", call)

    def _put_option(
        self, call: ctypes.c_void_p, name: str, signature: str, value: Sequence[str] | ctypes.c_int
    ) -> None:
        self._open(call, "e", "sv")
        self._put(call, name.encode())
        self._open(call, "v", signature)
        if isinstance(value, ctypes.c_int):
            self._do("sd_bus_message_append_basic", call, ctypes.c_char(b"b"), ctypes.byref(value))
        else:
            array = (ctypes.c_char_p * (len(value) + 1))(*(text.encode() for text in value))
            self._do("sd_bus_message_append_strv", call, array)
        self._close(call)
        self._close(call)

    def _answer(self, reply: ctypes.c_void_p) -> Precompiled:
        """Of the values of GetPch, the second and a part of the third."""
        self._read(reply)
        arguments = ctypes.POINTER(ctypes.c_char_p)()
        self._do("sd_bus_message_read_strv", reply, ctypes.byref(arguments))
        found: list[bytes] = []
        while (argument := arguments[len(found)]) is not None:
            found.append(argument)
        fields = self._fields(reply)
        names = (b"source_tree", b"library", b"library_file")
        return Precompiled(found, *(fields.get(name, b"").decode() for name in names))

    def _read(self, reply: ctypes.c_void_p) -> bytes:
        text = ctypes.c_char_p()
        self._do("sd_bus_message_read_basic", reply, ctypes.c_char(b"s"), ctypes.byref(text))
        return text.value or b""

    def _fields(self, reply: ctypes.c_void_p) -> dict[bytes, bytes]:
        """The texts in a dictionary; what has another type is passed over."""
        fields: dict[bytes, bytes] = {}
        enter, leave = "sd_bus_message_enter_container", "sd_bus_message_exit_container"
        self._do(enter, reply, ctypes.c_char(b"a"), b"{sv}")
        while len(fields) < _MAX_FIELDS and self._do(enter, reply, ctypes.c_char(b"e"), b"sv"):
            name = self._read(reply)
            kind, contents = ctypes.c_char(), ctypes.c_char_p()
            self._do("sd_bus_message_peek_type", reply, ctypes.byref(kind), ctypes.byref(contents))
            if contents.value == b"s":
                self._do(enter, reply, ctypes.c_char(b"v"), b"s")
                fields[name] = self._read(reply)
                self._do(leave, reply)
            else:
                self._do("sd_bus_message_skip", reply, b"v")
            self._do(leave, reply)
        return fields
