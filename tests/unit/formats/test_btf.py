"""What is no kernel's BTF is refused before anything else reads it."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.errors import Corrupt
from kheadersd.formats.btf import MAX_BTF, check, parts
from tests.support.made_up_btf import make_btf, make_btf_of

GOOD = make_btf()


def changed(offset: int, form: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(f"<{form}", data, offset, value)
    return bytes(data)


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_byte_order_is_good(order: str) -> None:
    data = make_btf(order=order)
    check(data, "x")
    assert parts(data, "x").end == len(data)


def test_what_is_behind_it_does_not_matter() -> None:
    check(GOOD + b"\0\0\0", "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "x is no BTF"),
        (b"\x9f\xeb\x01", "x is no BTF"),
        (b"\x7fELF" + GOOD, "x is no BTF"),
        (changed(2, "B", 2), "version 2"),
        (changed(4, "I", 23), "makes no sense"),
        (changed(4, "I", 0xFFFFFFFC), "makes no sense"),
        (changed(8, "I", 2), "makes no sense"),
        (changed(12, "I", 0), "overlap, or there are none"),
        (changed(16, "I", 0), "overlap"),
        (changed(20, "I", 0), "overlap, or there are none"),
        (changed(20, "I", MAX_BTF), "more than the"),
        (changed(16, "I", 0xFFFFFFFF), "more than the"),
        (GOOD[:-1], "should have"),
        (GOOD[:-1] + b"x", "do not end"),
        (make_btf_of(b"\0" * 12, b"x\0task_struct\0"), "do not end"),
        (make_btf("another"), "no task_struct"),
        (make_btf("task_struct2"), "no task_struct"),
    ],
)
def test_anything_else_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(Corrupt, match=message) as caught:
        check(data, "x")
    assert caught.value.message.startswith("x ")


@given(st.binary(max_size=64), st.integers(0, len(GOOD)))
def test_damage_gives_a_plain_reason(damage: bytes, at: int) -> None:
    data = GOOD[:at] + damage + GOOD[at + len(damage) :]
    with contextlib.suppress(Corrupt):
        check(data, "x")
