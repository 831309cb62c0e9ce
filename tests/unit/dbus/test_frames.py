"""The framing, with frames of our own making and with nonsense."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.dbus import frames as wire
from tests.support.raw import big_endian_call

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=40)
signatures = st.text("sayu", max_size=20)
numbers = st.integers(0, 0xFFFF_FFFF)
fields_of_any_kind = st.builds(
    wire.Fields,
    path=texts,
    interface=texts,
    member=texts,
    error_name=texts,
    reply_serial=numbers,
    destination=texts,
    sender=texts,
    signature=signatures,
    unix_fds=numbers,
)


def parse(frame: bytes) -> tuple[wire.Fields, bytes, int]:
    size = wire.measure(frame)
    assert len(frame) == size.header + size.body
    fields = wire.parse_fields(frame[16 : 16 + size.fields], big_endian=frame[0] == 0x42)
    return fields, frame[size.header :], size.serial


@given(fields_of_any_kind, st.binary(max_size=50), st.integers(1, 0xFFFF_FFFF))
def test_frames_come_back(fields: wire.Fields, body: bytes, serial: int) -> None:
    for build in (wire.method_call, wire.signal):
        assert parse(build(serial, fields, body)) == (fields, body, serial)


@given(texts, st.binary(max_size=50), numbers, signatures, st.integers(0, 16))
def test_replies_come_back(to: str, body: bytes, serial: int, signature: str, unix_fds: int) -> None:
    fields = wire.Fields(reply_serial=serial, destination=to, signature=signature, unix_fds=unix_fds)
    assert parse(wire.method_return(7, serial, to, signature, body, unix_fds)) == (fields, body, 7)


@given(st.text(max_size=3000))
def test_error_text_is_always_fit_for_the_bus(message: str) -> None:
    fields, body, _ = parse(wire.error(1, 2, ":1.1", "a.b", message))
    (length,) = struct.unpack_from("<I", body)
    assert fields.error_name == "a.b"
    assert len(body) == 4 + length + 1
    assert length <= 8192
    body[4:-1].decode()
    assert b"\0" not in body[4:-1]


@given(st.binary(max_size=300), st.booleans())
def test_nonsense_is_refused_or_read(data: bytes, big_endian: bool) -> None:
    for function in (wire.parse_fields, wire.parse_call_fields):
        with contextlib.suppress(ValueError):
            function(data, big_endian=big_endian)


@given(fields_of_any_kind, st.integers(0, 400), st.integers(0, 255))
def test_damaged_fields_are_refused_or_read(fields: wire.Fields, at: int, byte: int) -> None:
    frame = bytearray(wire.method_call(1, fields))
    size = wire.measure(frame)
    data = frame[16 : 16 + size.fields]
    if data:
        data[at % len(data)] = byte
    with contextlib.suppress(ValueError):
        wire.parse_fields(bytes(data))


@given(st.binary(min_size=16, max_size=16))
def test_any_prefix_is_measured_or_refused(data: bytes) -> None:
    try:
        size = wire.measure(data)
    except ValueError:
        return
    assert size.header >= 16
    assert size.header + size.body <= wire.MAX_FRAME


def test_big_endian() -> None:
    fields = wire.Fields(path="/a", interface="b.c", member="D", destination=":1.5", signature="su")
    assert parse(big_endian_call(9, fields, b"body")) == (fields, b"body", 9)


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("y", b"\1"),
        ("s", b"\0" * 4 + struct.pack("<I", 5) + b"hello\0"),
        ("g", b"\2as\0"),
        ("v", b"\1y\0\5"),
        ("v", b"\1v\0\1v\0\1y\0\5"),
        ("(ys)", b"\1\0\0\0" + struct.pack("<I", 1) + b"x\0"),
        ("as", struct.pack("<I", 6) + struct.pack("<I", 1) + b"x\0"),
        ("a{sv}", bytes(8)),
        ("aa(yy)", struct.pack("<I", 0)),
        ("x", bytes(8)),
        ("d", bytes(8)),
        ("q", bytes(2)),
    ],
)
def test_unknown_fields_are_passed_over(signature: str, value: bytes) -> None:
    name = signature.encode()
    unknown = bytes((77, len(name))) + name + b"\0"
    alignment = {"y": 1, "g": 1, "v": 1, "q": 2, "s": 4, "a": 4}.get(signature[0], 8)
    if signature == "s":
        value = value[4:]
    unknown += bytes(-len(unknown) % alignment) + value
    known = b"\3\1s\0" + struct.pack("<I", 3) + b"Foo\0"
    for data in (unknown + bytes(-len(unknown) & 7) + known, known + bytes(-len(known) & 7) + unknown):
        assert wire.parse_fields(data) == wire.Fields(member="Foo")


@pytest.mark.parametrize(
    "data",
    [
        b"\1\1s\0" + struct.pack("<I", 1) + b"/\0",  # a path that is a string
        b"\1\1o\0" + struct.pack("<I", 9) + b"/\0",
        b"\1\1o\0" + struct.pack("<I", 1) + b"/x",
        b"\1\1o\0" + struct.pack("<I", 0xFFFF_FFFF) + b"/\0",
        b"\1\1o\0" + struct.pack("<I", 1) + b"\xff\0",
        b"M\2ss\0" + bytes(10),
        b"M\1(\0" + bytes(10),
        b"M\1a\0" + bytes(10),
        b"M\1z\0" + bytes(10),
        b"M\1v\0" + b"\1v\0" * 100,
    ],
)
def test_malformed_fields(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"header|type|text|utf-8|signature|nested|array|variant"):
        wire.parse_fields(data)
