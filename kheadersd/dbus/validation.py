"""Walking over marshalled values without making anything of them, and refusing what is malformed.

A bus need not look into the bodies that it passes on (dbus-broker does not), and the libraries trust what
they decode: dbus-fast crashes on some malformed variants. So nothing is decoded before it was walked over.
"""

from __future__ import annotations

import functools
import struct

_SIZES = {"y": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "h": 4, "x": 8, "t": 8, "d": 8}
_BASIC = "ybnqiuxtdsogh"
_ALIGNED_TO_8 = "xtd({"
_MAX_SIGNATURE = 255
_MAX_NESTING = 32  # of arrays, and of structs, in one signature
_MAX_DEPTH = 64  # of containers in a message, variants included
_MAX_ARRAY = 64 << 20


def check_body(signature: str, body: bytes, big_endian: bool) -> None:
    """
    Raises:
        ValueError: the body is not exactly the values that its signature says.
    """
    walker = Walker(body, big_endian)
    try:
        walker.values(split(signature), 0)
    except (IndexError, struct.error) as error:
        raise ValueError("it is cut short") from error
    if walker.at != len(body):
        raise ValueError("it does not end where its values do")


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


class Walker:
    """A position in marshalled data, whose first byte is at a multiple of 8 in its message.

    All methods raise ValueError, IndexError or struct.error where the data are malformed or end early.
    """

    def __init__(self, data: bytes, big_endian: bool) -> None:
        self.data = data
        self.at = 0
        self._u32 = struct.Struct(">I" if big_endian else "<I").unpack_from

    def align(self, size: int) -> None:
        """Go on to the next multiple of ``size``."""
        self.at += -self.at & (size - 1)

    def u32(self) -> int:
        """Read an unsigned integer of four bytes."""
        self.align(4)
        (value,) = self._u32(self.data, self.at)
        self.at += 4
        return int(value)

    def string(self) -> str:
        """Read a string or an object path."""
        return self._text(self.u32())

    def signature(self) -> str:
        """Read a signature."""
        length = self.data[self.at]
        self.at += 1
        return self._text(length)

    def values(self, types: tuple[str, ...], depth: int) -> None:
        """Pass over one value of each complete type."""
        if depth > _MAX_DEPTH:
            raise ValueError("values are nested too deeply")
        for one in types:
            self._value(one, depth)

    def variant(self, depth: int) -> None:
        """Pass over a variant: a signature, and a value of it."""
        types = split(self.signature())
        if len(types) != 1:
            raise ValueError("a variant is not of one complete type")
        self.values(types, depth)

    def _value(self, one: str, depth: int) -> None:
        kind = one[0]
        size = _SIZES.get(kind)
        if size:
            self.align(size)
            self.at += size
            if self.at > len(self.data):
                raise ValueError("it is cut short")
        elif kind == "s":
            self.string()
        elif kind == "o":
            if not _is_object_path(self.string()):
                raise ValueError("an object path is malformed")
        elif kind == "g":
            split(self.signature())
        elif kind == "v":
            self.variant(depth + 1)
        elif kind == "a":
            self._array(one[1:], depth + 1)
        else:
            self.align(8)
            self.values(split(one[1:-1]), depth + 1)

    def _array(self, element: str, depth: int) -> None:
        length = self.u32()
        if element[0] in _ALIGNED_TO_8:
            self.align(8)
        end = self.at + length
        if length > _MAX_ARRAY or end > len(self.data):
            raise ValueError("an array is cut short or too long")
        size = _SIZES.get(element)
        if size:
            self.at = end if length % size == 0 else end + 1
        while self.at < end:
            self.values((element,), depth)
        if self.at != end:
            raise ValueError("an array does not end where its elements do")

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
