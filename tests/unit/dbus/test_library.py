"""Values to bodies and back, the same with either library."""

from __future__ import annotations

import contextlib
import gc
import struct
import sys
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.dbus import codec as library
from kheadersd.dbus.codec import Variant, decode, encode, encode_exactly


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("", []),
        ("s", ["text"]),
        ("ynqiuxtd", [255, -1, 65535, -(2**31), 2**32 - 1, -(2**63), 2**64 - 1, 0.5]),
        ("bgoo", [True, "a{sv}", "/a/b_1", "/"]),
        ("as", [["a", "b"]]),
        ("a{ss}", [{"a": "b"}]),
        ("sa{sv}", ["x", {"sources": Variant("as", ["tree"]), "refresh": Variant("b", True)}]),
        ("aa{sv}", [[{"n": Variant("t", 1)}, {}]]),
        ("v", [Variant("v", Variant("u", 5))]),
        ("h", [0]),
        ("abaqaday", [[True, False], [1, 65535], [0.5, -1.0], b""]),
        ("a(yv)a{ua{sv}}", [[[1, Variant("as", ["x"])]], {7: {"k": Variant("(ay)", [b"z"])}}]),
        ("aasax", [[["a"], [], ["b", "c"]], []]),
    ],
)
def test_values_come_back(signature: str, values: list[Any]) -> None:
    body = encode(signature, values)
    assert decode(signature, body) == values
    assert decode(signature, body, once=True) == values


def test_structs_and_bytes_come_back_as_sequences() -> None:
    rows = decode("a(ssuus)ay", encode("a(ssuus)ay", [[["a", "b", 1, 2, "c"]], b"xyz"]))
    assert [tuple(row) for row in rows[0]] == [("a", "b", 1, 2, "c")]
    assert bytes(rows[1]) == b"xyz"


def test_big_endian() -> None:
    body = struct.pack(">I", 7) + struct.pack(">I", 2) + b"ab\0" + b"\0" + struct.pack(">h", -2)
    assert decode("usn", body, big_endian=True) == [7, "ab", -2]


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("s", [5]),
        ("u", ["x"]),
        ("u", [-1]),
        ("u", [2**32]),
        ("ss", ["one"]),
        ("s", ["one", "two"]),
        ("o", ["no path"]),
        ("o", ["/a//b"]),
        ("o", ["/a/"]),
        ("a{sv}", [{"x": 5}]),
        ("o", ["/\udc80"]),
        ("(", [1]),
    ],
)
def test_wrong_values_are_refused(signature: str, values: list[Any]) -> None:
    with pytest.raises(ValueError, match="not values of"):
        encode(signature, values)


_ODD = [
    ("s", ["a\0b"], ["a\\x00b"]),
    ("s", ["/lib/\udcff\udcc3\udca9"], ["/lib/\\xffé"]),
    ("s", ["\ud800"], ["\\ud800"]),
    ("as", [["fine", "\udc80"]], [["fine", "\\x80"]]),
    ("a{ss}", [{"\udc80": "\udc81"}], [{"\\x80": "\\x81"}]),
    ("a{sv}", [{"x": Variant("as", ["\udc80"])}], [{"x": Variant("as", ["\\x80"])}]),
    ("v", [Variant("v", Variant("s", "\udc80"))], [Variant("v", Variant("s", "\\x80"))]),
]


@pytest.mark.parametrize(("signature", "values", "expected"), _ODD)
def test_text_that_cannot_travel_is_escaped(signature: str, values: list[Any], expected: list[Any]) -> None:
    assert decode(signature, encode(signature, values)) == expected


@pytest.mark.parametrize(("signature", "values"), [odd[:2] for odd in _ODD])
def test_what_must_not_become_something_else_is_refused(signature: str, values: list[Any]) -> None:
    with pytest.raises(ValueError, match="not values of"):
        encode_exactly(signature, values)


def test_a_struct_with_text_that_cannot_travel() -> None:
    rows = decode("a(su)", encode("a(su)", [[["\udc80", 1]]]))
    assert [tuple(row) for row in rows[0]] == [("\\x80", 1)]


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("s", b""),
        ("s", struct.pack("<I", 100) + b"x\0"),
        ("s", struct.pack("<I", 3) + b"a\0b\0"),
        ("s", struct.pack("<I", 1) + b"\xff\0"),
        ("u", b"\1"),
        ("as", struct.pack("<I", 1000) + b"x"),
        ("v", b"\1z\0\0"),
        ("v", b"\0\0"),
        ("v", b"\1v\0" * 5000),
        ("v", b"\2yy\0\1\1"),
        ("v", b"\1{\0\0"),
        ("v", b"\2()\0" + bytes(8)),
        ("u", bytes(5)),
        ("au", struct.pack("<I", 5) + bytes(5)),
        ("as", struct.pack("<I", 5) + struct.pack("<I", 1) + b"x\0"),
        ("a{sv}", struct.pack("<I", 1 << 31)),
    ],
)
def test_malformed_bodies_are_refused(signature: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="not a body of"):
        decode(signature, body)


@given(
    st.sampled_from(["s", "v", "av", "a{sv}", "sa{sv}", "a(ssuus)", "as", "tdx", "g"]),
    st.binary(max_size=200),
)
def test_any_bytes_are_decoded_or_refused(signature: str, body: bytes) -> None:
    for big_endian in (False, True):
        with contextlib.suppress(ValueError):
            decode(signature, body, big_endian=big_endian, once=True)


def _remembered() -> int:
    """How many parsed signatures the library remembers, in memory that only it has."""
    signature = sys.modules[f"{library.LIBRARY}.signature"]
    parse = getattr(signature, "get_signature_tree", None)
    return parse.cache_info().currsize if parse else len(signature.SignatureTree._cache)


def test_strange_signatures_are_not_kept() -> None:
    """Callers choose the signatures of variants, and the library remembers all that it has seen."""
    before = _remembered()
    for number in range(2000):
        inner = "a" * (number % 30) + f"({'y' * (number // 30 + 1)})"
        name = inner.encode()
        body = bytes((len(name),)) + name + b"\0"
        with contextlib.suppress(ValueError):
            decode("v", body + bytes(-len(body) & 7) + bytes(200), once=True)
    assert _remembered() <= before


def test_what_was_encoded_is_freed_at_once() -> None:
    class Text(str):
        __slots__ = ("__weakref__",)

    value = Text("x")
    alive = weakref.ref(value)
    gc.disable()
    try:
        encode("s", [value])
        del value
        assert alive() is None, "it waits for the garbage collector"
    finally:
        gc.enable()
