# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which headers of a program's text can be precompiled for it: those that it includes before all else."""

from __future__ import annotations

import re

MAX_TEXT = 1 << 20
"""Bytes of a program that are looked at; bcc's own tools have at most 30 KB."""

MAX_HEADERS = 64
"""As many as the daemon takes; further ones stay in the program."""

# Each alternative ends at the end of a line or of the text at the latest, so that a text of nothing but
# beginnings takes linear time. Literals are matched because they may have what looks like a comment.
_COMMENT_OR_LITERAL = re.compile(
    rb"""/\*.*?(?:\*/|\Z)|//[^\n]*|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?""", re.DOTALL
)
_INCLUDE = re.compile(rb"#[ \t]*include[ \t]*<([A-Za-z0-9_][A-Za-z0-9_.+/-]{0,125}\.h)>", re.ASCII)
_WARNINGS = re.compile(rb"#[ \t]*pragma[ \t]+(?:clang|GCC)[ \t]+diagnostic[ \t].*")
_CONDITION = re.compile(rb"#[ \t]*(?:if|ifdef|ifndef)\b.*")
_END = re.compile(rb"#[ \t]*endif\b.*")
# Libbcc defines it for every program, and with it the block is empty.
_EMPTY_BLOCK = re.compile(rb"#[ \t]*ifndef[ \t]+KBUILD_MODNAME")
_OF_LIBBCC = b"bcc/"


def leading_headers(text: bytes) -> tuple[str, ...]:
    """The kernel headers that a program includes before any directive that could change what they mean.

    Between them may be code (bcc's container filters are put before a program), libbcc's own headers, which
    stay in the program, pragmas that are about warnings, and ``#ifndef KBUILD_MODNAME`` blocks. The list ends
    at any other directive.

    Returns:
        Names as in ``linux/sched.h``, in the program's order, each once, at most `MAX_HEADERS`; () if there
        are none, or the text is longer than `MAX_TEXT`.
    """
    if len(text) > MAX_TEXT:
        return ()
    text = _COMMENT_OR_LITERAL.sub(_without_comment, text.replace(b"\\\n", b""))
    names: dict[str, None] = {}
    depth = 0  # of conditions within an empty block
    for line in map(bytes.strip, text.split(b"\n")):
        if depth:
            depth += bool(_CONDITION.fullmatch(line)) - bool(_END.fullmatch(line))
        elif not line.startswith(b"#") or _WARNINGS.fullmatch(line):
            continue
        elif _EMPTY_BLOCK.fullmatch(line):
            depth = 1
        elif (included := _INCLUDE.fullmatch(line)) and len(names) < MAX_HEADERS:
            if not included[1].startswith(_OF_LIBBCC):
                names[included[1].decode()] = None
        else:
            break
    return tuple(names)


def _without_comment(found: re.Match[bytes]) -> bytes:
    return b" " if found[0][:1] == b"/" else found[0]
