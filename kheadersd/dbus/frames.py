# SPDX-License-Identifier: LGPL-2.1-or-later
"""The framing of D-Bus messages: pure functions over bytes, after the specification's "Message Protocol".

Bodies stay as they are: `codec.encode` and `codec.decode` know what is in them.
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

from ..system.printable import encodable
from .unmarshal import Reader, split

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4

NO_REPLY_EXPECTED = 0x1
ALLOW_INTERACTIVE_AUTHORIZATION = 0x4

PREFIX = 16
"""Bytes that must be there before the size of a frame is known."""

MAX_FRAME = 128 << 20
"""The specification's own limit on a message, in bytes."""

_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE, _UNIX_FDS = range(
    1, 10
)
_FIELD_TYPES = {
    _PATH: "o", _INTERFACE: "s", _MEMBER: "s", _ERROR_NAME: "s", _REPLY_SERIAL: "u", _DESTINATION: "s",
    _SENDER: "s", _SIGNATURE: "g", _UNIX_FDS: "u",
}  # fmt: skip
_MEMOISED_FIELDS = 512  # bytes
_unpack_little = struct.Struct("<III").unpack_from
_unpack_big = struct.Struct(">III").unpack_from
_pack_prefix = struct.Struct("<4BIII").pack
_pack_u32 = struct.Struct("<I").pack
_pack_reply = struct.Struct("<4BIII4BI").pack


class Size(NamedTuple):
    """What the first 16 bytes of a frame say.

    Attributes:
        header: bytes up to the body, with its padding.
        fields: bytes of the header fields, which begin after the first 16 bytes.
        body: bytes of the body.
        serial: the sender's number for the message.
    """

    header: int
    fields: int
    body: int
    serial: int


class Fields(NamedTuple):
    """The header fields of a message; ``""`` and 0 where one is absent."""

    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    unix_fds: int = 0


def measure(data: bytes | bytearray, at: int = 0) -> Size:
    """The size of the frame that begins at ``at``, where at least 16 bytes must be.

    Raises:
        ValueError: this is no D-Bus message; what follows on the stream cannot be understood any more.
    """
    order = data[at]
    if order == 0x6C:
        body, serial, fields = _unpack_little(data, at + 4)
    elif order == 0x42:
        body, serial, fields = _unpack_big(data, at + 4)
    else:
        raise ValueError(f"a message begins with byte {order}, which is no byte order")
    header = PREFIX + (fields + 7 & ~7)
    if header + body > MAX_FRAME:
        raise ValueError(f"a message of {header + body} bytes is larger than any may be")
    return Size(header, fields, body, serial)


def parse_fields(data: bytes, *, big_endian: bool = False) -> Fields:
    """The header fields that `Fields` has; all others are passed over, whatever their type.

    Args:
        data: the header fields alone: `Size.fields` bytes from byte 16 on.

    Raises:
        ValueError: they are malformed.
    """
    try:
        return _parse_fields(data, big_endian=big_endian)
    except (IndexError, struct.error) as error:
        raise ValueError("header fields are cut short") from error


@functools.lru_cache(maxsize=256)
def _parse_fields_memoised(data: bytes, big_endian: bool) -> Fields:  # noqa: FBT001 - lru_cache is faster
    return parse_fields(data, big_endian=big_endian)


def parse_call_fields(data: bytes, *, big_endian: bool = False) -> Fields:
    """As `parse_fields`, for method calls: one caller's calls have the same header but for the serial."""
    if len(data) <= _MEMOISED_FIELDS:
        return _parse_fields_memoised(data, big_endian)
    return parse_fields(data, big_endian=big_endian)


def _parse_fields(data: bytes, *, big_endian: bool) -> Fields:
    reader = Reader(data, big_endian=big_endian)
    known: list[str | int] = ["", "", "", "", "", 0, "", "", "", 0]
    while reader.at < len(data):
        reader.align(8)
        code = data[reader.at]
        reader.at += 1
        kind = reader.signature()
        expected = _FIELD_TYPES.get(code)
        if expected is None:
            reader.values(_single(kind), 0)
        elif kind != expected:
            raise ValueError(f"header field {code} is of type '{kind}' instead of '{expected}'")
        else:
            known[code] = (
                reader.u32() if kind == "u" else reader.signature() if kind == "g" else reader.string()
            )
    if reader.at != len(data):
        raise ValueError("header fields are cut short")
    return Fields(*known[1:])  # type: ignore[arg-type]


def _single(signature: str) -> tuple[str, ...]:
    types = split(signature)
    if len(types) != 1:
        raise ValueError(f"a header field of type '{signature}' is not one value")
    return types


def method_call(serial: int, fields: Fields, body: bytes = b"", flags: int = 0) -> bytes:
    """A METHOD_CALL frame. The fields must hold at least a path and a member."""
    return _frame(METHOD_CALL, serial, fields, body, flags)


def signal(serial: int, fields: Fields, body: bytes = b"") -> bytes:
    """A SIGNAL frame. The fields must hold a path, an interface and a member."""
    return _frame(SIGNAL, serial, fields, body, NO_REPLY_EXPECTED)


def method_return(
    serial: int,
    reply_serial: int,
    destination: str,
    signature: str = "",
    body: bytes = b"",
    unix_fds: int = 0,
) -> bytes:
    """A METHOD_RETURN frame that answers the call ``reply_serial`` of ``destination``."""
    length, rest = _reply_fields(destination, signature, "", unix_fds)
    return (
        _pack_reply(0x6C, METHOD_RETURN, 1, 1, len(body), serial, length, 5, 1, 0x75, 0, reply_serial)
        + rest
        + body
    )


def error(serial: int, reply_serial: int, destination: str, name: str, message: str) -> bytes:
    """An ERROR frame. Text that cannot travel on the bus is escaped, and cut after 8 KiB."""
    text = encodable(message).encode()[:8192]
    text = text.decode("utf-8", "ignore").encode()
    body = _pack_u32(len(text)) + text + b"\0"
    length, rest = _reply_fields(destination, "s", name, 0)
    return (
        _pack_reply(0x6C, ERROR, 1, 1, len(body), serial, length, 5, 1, 0x75, 0, reply_serial) + rest + body
    )


@functools.lru_cache(maxsize=256)
def _reply_fields(destination: str, signature: str, error_name: str, unix_fds: int) -> tuple[int, bytes]:
    """The fields of a reply after its REPLY_SERIAL, padded, and the length of all of them."""
    rest = _marshal_fields(
        Fields(destination=destination, signature=signature, error_name=error_name, unix_fds=unix_fds)
    )
    return 8 + len(rest), rest + bytes(-len(rest) & 7)


def _frame(kind: int, serial: int, fields: Fields, body: bytes, flags: int) -> bytes:
    data = _marshal_fields(fields)
    prefix = _pack_prefix(0x6C, kind, flags, 1, len(body), serial, len(data))
    return prefix + data + bytes(-len(data) & 7) + body


def _marshal_fields(fields: Fields) -> bytes:
    data = b""
    for code, value in enumerate(fields, start=1):
        if not value:
            continue
        kind = _FIELD_TYPES[code]
        data += bytes(-len(data) & 7) + bytes((code, 1, ord(kind), 0))
        if isinstance(value, int):
            data += _pack_u32(value)
        else:
            text = str(value).encode()
            data += (bytes((len(text),)) if kind == "g" else _pack_u32(len(text))) + text + b"\0"
    return data
