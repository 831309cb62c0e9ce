# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which headers of a program's text can be precompiled for it: those that it includes before all else.

Programs do not share precompiled headers of more than they include: libbcc walks all declarations three
times, so that two headers more cost vfsstat half as much CPU again (``python -m tests.bench sharing``).
"""

from __future__ import annotations

import re

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT = 1 << 20
"""Bytes of a program that are looked at; bcc's own tools have at most 30 KB."""

MAX_HEADERS = 64
"""As many as the daemon takes; further ones stay in the program."""

OF_LIBBCC = ("linux/types.h",)
"""What libbcc's own headers include in any case: the list of a program that includes nothing itself."""

# Clang joins lines also where spaces are behind the backslash.
_JOINED = re.compile(rb"\\[ \t\f\v]*\n")
_LINE_END = re.compile(rb"\r\n?")
# Each alternative ends at the end of a line or of the text at the latest, so that a text of nothing but
# beginnings takes linear time. Literals are matched because they may have what looks like a comment.
_COMMENT_OR_LITERAL = re.compile(
    rb"""/\*.*?(?:\*/|\Z)|//[^\n]*|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?""", re.DOTALL
)
_DIGRAPH = b"%:"  # another spelling of "#"
_INCLUDE = re.compile(rb"#[ \t]*include[ \t]*<([A-Za-z0-9_][A-Za-z0-9_.+/-]{0,125}\.h)>", re.ASCII)
_WARNINGS = re.compile(rb"#[ \t]*pragma[ \t]+(?:clang|GCC)[ \t]+diagnostic[ \t].*")
_CONDITION = re.compile(rb"#[ \t]*(?:if|ifdef|ifndef)\b.*")
# Of a kernel header, of types, or of what a macro says.
_OF_KERNEL = re.compile(rb'#[ \t]*include\b(?![ \t]*(?:<bpf/|""))')
_TYPES = b'"vmlinux.h"'
_CHANGE = re.compile(rb"#[ \t]*(?:define|undef|pragma(?![ \t]+once))\b")
_END = re.compile(rb"#[ \t]*endif\b.*")
_OTHERWISE = re.compile(rb"#[ \t]*(?:else|elif)")
# Libbcc defines it for every program, and with it the block is empty.
_EMPTY_BLOCK = re.compile(rb"#[ \t]*ifndef[ \t]+KBUILD_MODNAME")
_LIBBCCS = b"bcc/"
_PRAGMA = b"_Pragma"  # a directive within code, for the structures behind it too


def leading_headers(text: bytes) -> tuple[str, ...]:
    """The kernel headers that a program includes before any directive that could change what they mean.

    Between them may be whole declarations (bcc's container filters are put before a program), libbcc's own
    headers, which stay in the program, pragmas that are about warnings, and ``#ifndef KBUILD_MODNAME``
    blocks. The list ends at any other directive, and where a declaration is not complete.

    Returns:
        Names as in ``linux/sched.h``, in the program's order, each once, at most `MAX_HEADERS`; () if there
        are none, or the text is longer than `MAX_TEXT`.
    """
    if len(text) > MAX_TEXT:
        return ()
    names: dict[str, None] = {}
    code = _Code()
    depth = 0  # of conditions within an empty block
    for line in _lines(text):
        if depth:
            if depth == 1 and _OTHERWISE.match(line):
                break
            depth += bool(_CONDITION.fullmatch(line)) - bool(_END.fullmatch(line))
        elif not line.startswith(b"#"):
            if _PRAGMA in line:
                break
            code.add(line)
        elif _WARNINGS.fullmatch(line):
            continue
        elif not code.is_complete:
            break
        elif _EMPTY_BLOCK.fullmatch(line):
            depth = 1
        elif (included := _INCLUDE.fullmatch(line)) and len(names) < MAX_HEADERS:
            if not included[1].startswith(_LIBBCCS):
                names[included[1].decode()] = None
        else:
            break
    return tuple(names)


def includes_any(text: bytes) -> bool:
    """Whether a program may include something, up to where it ends for libbcc."""
    return b"include" in text.partition(b"\0")[0]


def changes_before_headers(text: bytes) -> str:
    """The first line before a kernel header, or before a vmlinux.h, that could change what that means.

    What else a program includes by ``"…"`` is not looked into, and libbpf's headers are none of the kernel's.

    Returns:
        The line, without comments and with empty literals; "" if there is none.
    """
    change = b""
    for line in _lines(text):
        if change and _OF_KERNEL.match(line):
            return change.decode(errors="replace")
        is_change = _CHANGE.match(line) and not _WARNINGS.fullmatch(line)
        if not change and (is_change or (_PRAGMA in line and not line.startswith(b"#"))):
            change = line
    return ""


class _Code:
    """What is known of the code so far.

    Attributes:
        is_complete: whether it consists of whole declarations: what comes next is within none.
    """

    def __init__(self) -> None:
        self._depth = 0
        self._last = b";"

    @property
    def is_complete(self) -> bool:
        return not self._depth and self._last in b";}"

    def add(self, line: bytes) -> None:
        opened = sum(map(line.count, (b"{", b"(", b"[")))
        closed = sum(map(line.count, (b"}", b")", b"]")))
        self._depth += opened - closed
        self._last = line[-1:] or self._last


def _lines(text: bytes) -> Iterator[bytes]:
    """The lines as a compiler takes them: up to a NUL, joined, without comments, literals being empty."""
    text = _LINE_END.sub(b"\n", text.partition(b"\0")[0])
    text = _COMMENT_OR_LITERAL.sub(_shortened, _JOINED.sub(b"", text))
    for line in map(bytes.strip, text.split(b"\n")):
        yield line.replace(_DIGRAPH, b"#", 1) if line.startswith(_DIGRAPH) else line


def _shortened(found: re.Match[bytes]) -> bytes:
    if found[0] == _TYPES:
        return _TYPES
    return b" " if found[0][:1] == b"/" else b'""'
