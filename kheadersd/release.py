# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel releases: free text, which is checked as input and escaped in names."""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import NewType

from .errors import InvalidArgs
from .system.printable import quoted

Release = NewType("Release", str)
"""A kernel release as ``uname -r`` prints it: one component of a path, of up to 64 bytes in UTF-8.

It may begin with "-", and have spaces, quotes, wildcards and any letters: LOCALVERSION is free text. `escape`
returns a name for it.
"""

# Bytes; the kernel's own limit, __NEW_UTS_LEN in include/uapi/linux/utsname.h.
MAX_RELEASE = 64

# The characters of usual releases, whose names are the same as the releases.
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._+~-")
_NEVER_FIRST = b"._+~-"  # a hidden file, or an option
_ESCAPED = re.compile(rb"%([0-9A-F]{2})")
_LONGEST = 128  # bytes; with a digest and a prefix, a name is shorter than NAME_MAX, 255
_HEX = "%%"  # the beginning of a name in hex, for releases whose percent-encoding is too long


@functools.lru_cache(maxsize=128)
def parse_release(text: str) -> Release:
    """Check that ``text`` can be a kernel release, and no other path than one component.

    Raises:
        InvalidArgs: it is empty, longer than 64 bytes, "." or "..", not valid Unicode, or has "/", NUL or
            control characters (Unicode's category Cc: U+0000 to U+001F and U+007F to U+009F).
    """
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgs(f"{quoted(text)} is not a kernel release: it is not valid UTF-8") from None
    if not text:
        raise InvalidArgs("a kernel release is not empty: give what 'uname -r' prints")
    if size > MAX_RELEASE:
        raise InvalidArgs(f"a kernel release has at most {MAX_RELEASE} bytes, this one has {size}")
    if text in (".", ".."):
        raise InvalidArgs(f"{quoted(text)} is not a kernel release, but the name of a directory")
    for character in text:
        if character == "/" or unicodedata.category(character) == "Cc":
            raise InvalidArgs(f"{quoted(text)} is not a kernel release: it has {quoted(character)}")
    return Release(text)


def escape(release: Release) -> str:
    """The name for a release: ASCII letters, digits and ``_ . - ~ + %``, at most 130 characters.

    It begins with a letter, a digit or "%". Usual releases stay as they are; any other byte of UTF-8 becomes
    "%" and two hex digits. `unescape` undoes it.
    """
    encoded = release.encode()
    plain = [byte in _PLAIN for byte in encoded]
    plain[0] = plain[0] and encoded[0] not in _NEVER_FIRST
    name = "".join(chr(byte) if keep else f"%{byte:02X}" for byte, keep in zip(encoded, plain, strict=True))
    return name if len(name) <= _LONGEST else _HEX + encoded.hex()


def unescape(name: str) -> Release:
    """The release for which `escape` returns ``name``.

    Raises:
        InvalidArgs: there is none.
    """
    try:
        if name.startswith(_HEX):
            encoded = bytes.fromhex(name.removeprefix(_HEX))
        else:
            encoded = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), name.encode())
        release = parse_release(encoded.decode())
    except ValueError:
        raise InvalidArgs(f"{quoted(name)} is not the name of a kernel release") from None
    if escape(release) != name:
        raise InvalidArgs(f"{quoted(name)} is not the name of a kernel release")
    return release
