"""Foreign text on terminals and in the journal."""

from __future__ import annotations

import pytest

from kheadersd.system.printable import printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("6.1.0-ядро", "6.1.0-ядро"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u202eabc\u200b", "\\u202eabc\\u200b"),
        ("\x85\x9b", "\\x85\\x9b"),
        ("\udcff\ud800", "\\xff\\ud800"),
        (b"\xff\x00k", "\\xff\\x00k"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode()


def test_long_text_is_cut() -> None:
    assert printable("abcdef", 4) == "abc…"
    assert quoted("x" * 500) == "'" + "x" * 199 + "…'"
