"""The options of calls: what is refused, and what is used when an option is left out."""

from __future__ import annotations

import re

import pytest

from kheadersd.daemon.options import COMPILER, FORCE, HEADERS, KEEP_HEADERS, REASON, REFRESH, SOURCES, Options
from kheadersd.dbus.codec import Variant
from kheadersd.errors import InvalidArgs

TAKEN = (SOURCES, REFRESH, FORCE, REASON, COMPILER, HEADERS, KEEP_HEADERS)


def test_what_is_left_out_has_its_default() -> None:
    options = Options({}, *TAKEN)
    assert (options[SOURCES], options[HEADERS]) == ((), ())
    assert (options[REASON], options[COMPILER]) == ("", "")
    assert [options[option] for option in (REFRESH, FORCE, KEEP_HEADERS)] == [False, False, True]


def test_what_is_given_is_used() -> None:
    given = {
        "sources": Variant("as", ["package", "tree"]),
        "refresh": Variant("b", True),
        "reason": Variant("s", "bpftrace"),
        "keep_headers": Variant("b", False),
        "headers": Variant("as", ["linux/fs.h"]),
    }
    options = Options(given, *TAKEN)
    assert options[SOURCES] == ("package", "tree")
    assert options[HEADERS] == ("linux/fs.h",)
    assert [options[option] for option in (REFRESH, KEEP_HEADERS, FORCE)] == [True, False, False]
    assert options[REASON] == "bpftrace"


@pytest.mark.parametrize(
    ("name", "signature", "value", "message"),
    [
        ("colour", "s", "red", "unknown option 'colour': this method takes sources, refresh, "),
        ("x" * 100, "s", "", f"unknown option '{'x' * 64}…'"),
        ("refresh", "s", "yes", "option 'refresh' is of type 'b', not 's'"),
        ("sources", "s", "tree", "option 'sources' is of type 'as', not 's'"),
        ("sources", "as", [], "option 'sources' is empty: leave it out to try all sources"),
        ("sources", "as", ["tree", "moon"], "option 'sources' has 'moon': the sources are tree, "),
        ("sources", "as", ["tree", "tree"], "option 'sources' names a source twice"),
        ("reason", "s", "x" * 257, "option 'reason' has 257 characters, at most 256 are kept"),
        ("reason", "s", "a\nb", "option 'reason' has control characters"),
        ("compiler", "s", "", "leave it out, or let it have 1 to 1024 printable characters"),
        ("compiler", "s", "x" * 1025, "1 to 1024 printable characters"),
        ("compiler", "s", "clang\x07", "1 to 1024 printable characters"),
        ("headers", "as", [], "option 'headers' is empty: leave it out to have those of the profile"),
        ("headers", "as", ["/etc/passwd"], "/etc/passwd"),
    ],
)
def test_what_is_refused(name: str, signature: str, value: object, message: str) -> None:
    with pytest.raises(InvalidArgs, match=re.escape(message)):
        Options({name: Variant(signature, value)}, *TAKEN)


def test_at_the_limits() -> None:
    options = Options({"reason": Variant("s", "x" * 256), "compiler": Variant("s", "x" * 1024)}, *TAKEN)
    assert (len(options[REASON]), len(options[COMPILER])) == (256, 1024)


def test_a_method_that_takes_none() -> None:
    with pytest.raises(InvalidArgs, match="unknown option 'force': this method takes none"):
        Options({"force": Variant("b", True)})


def test_another_method_s_option() -> None:
    with pytest.raises(InvalidArgs, match="unknown option 'force': this method takes refresh"):
        Options({"force": Variant("b", True)}, REFRESH)
