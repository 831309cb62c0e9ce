# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes foreign text printable: on one line, and without control sequences of terminals."""

from __future__ import annotations

import re
import unicodedata

_USER_INFORMATION = re.compile(r"//[^/@\s]*@")
_QUERY = re.compile(r"(https?://[^\s?\"'\\]*)(?:\?[^\s\"'\\]*)?", re.IGNORECASE)


def printable(text: str | bytes, limit: int | None = None) -> str:
    r"""``text`` on one line, at most ``limit`` characters of it, and valid Unicode.

    What is not printable becomes an escape sequence such as ``\x1b``: controls, line ends, surrogates, and
    the invisible characters that change the direction of text or have no width. Bytes are taken for UTF-8;
    those that are not, in bytes and in a file name that `os.fsdecode` made, become ``\xff`` and the like.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def encodable(text: str) -> str:
    r"""``text`` as D-Bus and JSON can carry it: the same, but for what is not valid UTF-8, and NULs.

    A byte of a file name that is not UTF-8 becomes ``\xff``, and a NUL ``\x00``.
    """
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # other surrogates than those that os.fsdecode makes
        data = text.encode("utf-8", "backslashreplace")
    return data.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def quoted(text: str | bytes, limit: int = 200) -> str:
    """`printable` in quotation marks."""
    return f"'{printable(text, limit)}'"


def has_controls(text: str) -> bool:
    """Whether ``text`` is no valid Unicode, or has control characters (category Cc: C0, DEL and C1).

    D-Bus cannot carry such a name, or a caller could take it for another one.
    """
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in text)


def without_secrets(text: str) -> str:
    """The text without what opens something in its addresses: passwords, and queries, which can be signed."""
    return _QUERY.sub(r"\1", _USER_INFORMATION.sub("//", text))


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, as os.fsdecode has it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
