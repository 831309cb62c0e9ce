# SPDX-License-Identifier: LGPL-2.1-or-later
"""Marshalled values to Python's, and a refusal of all that is malformed.

A bus need not look into the bodies that it passes on (dbus-broker does not), and the libraries trust what
they decode: dbus-fast crashes on some malformed variants. So bodies are decoded here.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any

_FIXED = {
    "y": ("B", 1), "n": ("h", 2), "q": ("H", 2), "b": ("I", 4), "i": ("i", 4), "u": ("I", 4), "h": ("I", 4),
    "x": ("q", 8), "t": ("Q", 8), "d": ("d", 8),
}  # fmt: skip
"""The types of a fixed size: their format in `struct`, and their bytes."""
_BASIC = "ybnqiuxtdsogh"
_ALIGNED_TO_8 = "xtd({"
_MAX_SIGNATURE = 255
_MAX_NESTING = 32  # of arrays, and of structs, in one signature
_MAX_DEPTH = 64  # of containers in a message, variants included
_MAX_ARRAY = 64 << 20

MakeVariant = Callable[[str, Any], Any]
"""Makes a variant of a signature and a value."""


def _no_variant(signature: str, value: Any) -> None:
    """For values that are only checked."""


def unmarshal(
    signature: str, body: bytes, make_variant: MakeVariant = _no_variant, *, big_endian: bool
) -> list[Any]:
    """The values of a body: structs as lists, ``ay`` as bytes.

    Raises:
        ValueError: the body is not exactly the values that its signature says.
    """
    reader = Reader(body, make_variant, big_endian=big_endian)
    try:
        values = reader.values(split(signature), 0)
    except (IndexError, struct.error) as error:
        raise ValueError("it is cut short") from error
    if reader.at != len(body):
        raise ValueError("it does not end where its values do")
    return values


@functools.lru_cache(maxsize=256)
def split(signature: str) -> tuple[str, ...]:
    """The complete types of a signature.

    Raises:
        ValueError: it is malformed.
    """
    if len(signature) > _MAX_SIGNATURE:
        raise ValueError("a signature is too long")
    types = []
    at = 0
    while at < len(signature):
        end = _type_end(signature, at, 0, 0)
        types.append(signature[at:end])
        at = end
    return tuple(types)


def _type_end(signature: str, at: int, arrays: int, structs: int) -> int:
    """Where the complete type that begins at ``at`` ends."""
    kind = signature[at : at + 1]
    if arrays > _MAX_NESTING or structs > _MAX_NESTING or not kind:
        raise ValueError("a signature is nested too deeply or ends early")
    at += 1
    if kind == "v" or kind in _BASIC:
        return at
    if kind == "a" and signature[at : at + 1] == "{":
        if signature[at + 1 : at + 2] not in tuple(_BASIC):
            raise ValueError("a dictionary's key is not of a basic type")
        at = _type_end(signature, at + 2, arrays + 1, structs + 1)
        if signature[at : at + 1] != "}":
            raise ValueError("a dictionary's entry is not a pair")
        return at + 1
    if kind == "a":
        return _type_end(signature, at, arrays + 1, structs)
    if kind == "(" and signature[at : at + 1] != ")":
        while signature[at : at + 1] != ")":
            at = _type_end(signature, at, arrays, structs + 1)
        return at + 1
    raise ValueError(f"a signature has '{kind}' where a type begins")


class Reader:
    """A position in marshalled data, whose first byte is at a multiple of 8 in its message.

    All methods raise ValueError, IndexError or struct.error where the data are malformed or end early.
    """

    def __init__(self, data: bytes, make_variant: MakeVariant = _no_variant, *, big_endian: bool) -> None:
        self.data = data
        self.at = 0
        self._make_variant = make_variant
        self._order = ">" if big_endian else "<"

    def align(self, size: int) -> None:
        """Go on to the next multiple of ``size``."""
        self.at += -self.at & (size - 1)

    def u32(self) -> int:
        """Read an unsigned integer of four bytes."""
        return int(self._fixed("u", 1)[0])

    def string(self) -> str:
        """Read a string or an object path."""
        return self._text(self.u32())

    def signature(self) -> str:
        """Read a signature."""
        length = self.data[self.at]
        self.at += 1
        return self._text(length)

    def values(self, types: tuple[str, ...], depth: int) -> list[Any]:
        """Read one value of each complete type."""
        if depth > _MAX_DEPTH:
            raise ValueError("values are nested too deeply")
        return [self._value(one, depth) for one in types]

    def _value(self, one: str, depth: int) -> Any:
        kind = one[0]
        if kind in _FIXED:
            return self._fixed(kind, 1)[0]
        if kind == "s":
            return self.string()
        if kind == "o":
            path = self.string()
            if not _is_object_path(path):
                raise ValueError("an object path is malformed")
            return path
        if kind == "g":
            signature = self.signature()
            split(signature)
            return signature
        if kind == "v":
            return self._variant(depth + 1)
        if kind == "a":
            return self._array(one[1:], depth + 1)
        self.align(8)
        return self.values(split(one[1:-1]), depth + 1)

    def _variant(self, depth: int) -> Any:
        signature = self.signature()
        types = split(signature)
        if len(types) != 1:
            raise ValueError("a variant is not of one complete type")
        return self._make_variant(signature, self.values(types, depth)[0])

    def _array(self, element: str, depth: int) -> Any:
        length = self.u32()
        if element[0] in _ALIGNED_TO_8:
            self.align(8)
        end = self.at + length
        if length > _MAX_ARRAY or end > len(self.data):
            raise ValueError("an array is cut short or too long")
        items: Any = []
        if element == "y":
            items, self.at = self.data[self.at : end], end
        elif element in _FIXED:
            items = self._fixed(element, length // _FIXED[element][1])
        while self.at < end:
            items += self.values((element,), depth)
        if self.at != end:
            raise ValueError("an array does not end where its elements do")
        return dict(items) if element[0] == "{" else items

    def _fixed(self, kind: str, count: int) -> list[Any]:
        code, size = _FIXED[kind]
        self.align(size)
        values = list(struct.unpack_from(f"{self._order}{count}{code}", self.data, self.at))
        self.at += count * size
        return [bool(value) for value in values] if kind == "b" else values

    def _text(self, length: int) -> str:
        end = self.at + length
        if end >= len(self.data) or self.data[end]:
            raise ValueError("text is not terminated")
        text = self.data[self.at : end].decode()
        if "\0" in text:
            raise ValueError("text has a NUL")
        self.at = end + 1
        return text


def _is_object_path(text: str) -> bool:
    elements = text.split("/")
    return text == "/" or (
        len(elements) > 1
        and not elements[0]
        and all(element.isascii() and element.replace("_", "a").isalnum() for element in elements[1:])
    )
