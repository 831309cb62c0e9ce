# SPDX-License-Identifier: LGPL-2.1-or-later
"""The headers that a program includes, directly or not, found without a compiler.

Conditions are decided only where the text decides them: by the kernel's configuration, by what each kernel
program has defined, and by the guard around a header. Where it does not, what is included there is not looked
for: a header that is missing is never one that the kernel's own build could do without.

Headers can be hostile. Their number, their bytes and the names that wait are bounded: what is beyond is not
followed. A pattern takes time in proportion to the text, as other threads wait meanwhile: hence possessive
quantifiers, of single characters only (Python 3.11.2 is wrong about groups).
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping

from ..host.architecture import without_comments
from ..system.files import UnfitFile, read_file

MAX_HEADER = 8 * 1024 * 1024
"""Bytes; the largest of the kernel's headers, of a graphics card's registers, have 3 MB."""

# The kernel has some 25,000 headers. What each program includes is some 500 of them, 5 MB.
_MAX_HEADERS = 20_000
_MAX_BYTES = 64 * 1024 * 1024
_MAX_DEPTH = 1000  # conditions in each other; GCC's own limit is the memory
_MAX_CONDITION = 4096  # bytes
# Of a kernel's own program; what assembly and user programs see is not followed.
_DEFINED = {
    "__KERNEL__": True,
    "__ASSEMBLY__": False,
    "__ASSEMBLER__": False,
    "__GENERATING_BOUNDS_H": False,
    "__cplusplus": False,
}

_DIRECTIVE = re.compile(rb"#[ \t]*+(if|ifdef|ifndef|elif|else|endif|include)\b[ \t]*+([^\n]*+)")
_INCLUDED = re.compile(rb"<([^>\n\0]{1,255})>")
_GUARD = re.compile(
    rb"\s*+#[ \t]*+(?:ifndef[ \t]++|if[ \t]++!defined[ \t]*+\(?[ \t]*+)(\w++)[ \t]*+\)?[ \t]*+\r?\n"
)
_TERM = re.compile(
    rb"(!?)[ \t]*+(?:(defined)|(IS_ENABLED|IS_BUILTIN|IS_MODULE))[ \t]*+(?:\([ \t]*+)?(\w++)[ \t]*+\)?"
)
# The directories of headers whose absence tells something. Others are the compiler's, or of one board.
_OF_KERNEL = ("asm/", "asm-generic/", "generated/", "linux/", "uapi/")

Verdict = bool | None
"""Whether a condition holds; None if the text does not tell."""


class Missing(Exception):
    """A header is included that is nowhere to be found.

    Attributes:
        name: as it is included: "asm/types.h".
        by: the path of the header that includes it, "" for the program itself.
        places: the paths where it could have been.
    """

    def __init__(self, name: str, by: str, places: list[str]) -> None:
        super().__init__(name)
        self.name = name
        self.by = by
        self.places = places


class Empty(UnfitFile):
    """A header has no bytes, as after a crash or on a full disk; that of a kernel has a guard at least."""


def check_included(names: Iterable[str], directories: list[str], symbols: Mapping[str, str]) -> int:
    """Check that everything is there which programs need that include these headers; some 50 ms.

    Args:
        names: "linux/sched.h".
        directories: that headers are looked for in, in this order.
        symbols: the kernel's configuration, see `Configuration`.

    Returns:
        How many headers were read.

    Raises:
        Missing: a header is not there.
        Empty: a header of the sources, or a wrapper, has no bytes. Other headers that are generated may have
            none: arm64's vdso32-offsets.h.
        OSError: one cannot be read.
    """
    found: set[str] = set()
    pending: list[tuple[str, str]] = [(name, "") for name in names]
    left = _MAX_BYTES
    while pending and left > 0 and len(found) + len(pending) < _MAX_HEADERS:
        name, by = pending.pop()
        if name in found:
            continue
        found.add(name)
        for directory in directories:
            path = f"{directory}/{name}"
            try:
                text = read_file(path, MAX_HEADER)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if not text and not name.startswith("generated/"):
                raise Empty(errno.ENODATA, "it is empty", path)
            left -= len(text)
            included = (other for other in _included(text, symbols) if other not in found)
            pending += ((other, path) for other in itertools.islice(included, _MAX_HEADERS))
            break
        else:
            raise Missing(name, by, [f"{directory}/{name}" for directory in directories])
    return len(found)


def _included(text: bytes, symbols: Mapping[str, str]) -> Iterator[str]:
    """The names of the kernel's headers that are surely included."""
    if b"include" not in text:
        return
    text = without_comments(text)
    if b"\\\n" in text:
        text = text.replace(b"\\\n", b" ")
    guard = _GUARD.match(text)
    stack: list[tuple[Verdict, Verdict]] = []  # whether this branch is taken, and whether one before it was
    for number, directive in enumerate(_DIRECTIVE.finditer(text)):
        word, rest = directive[1], directive[2].rstrip()
        if text[text.rfind(b"\n", 0, directive.start()) + 1 : directive.start()].strip():
            continue  # not the first on its line
        if word == b"include":
            if all(taken for taken, _ in stack) and (match := _INCLUDED.match(rest)):
                name = match[1].decode("ascii", "surrogateescape")
                if name.startswith(_OF_KERNEL) and "/../" not in name:
                    yield name
        elif word in (b"if", b"ifdef", b"ifndef"):
            verdict = True if number == 0 and guard else _condition(word, rest, symbols)
            stack.append((verdict, verdict))
        elif not stack:
            return  # no text of a header
        elif word == b"endif":
            stack.pop()
        else:
            before = stack[-1][1]
            verdict = True if word == b"else" else _condition(b"if", rest, symbols)
            taken = False if before else verdict if before is False else None if verdict else verdict
            stack[-1] = taken, _either(before, verdict)
        if len(stack) > _MAX_DEPTH:
            return


def _condition(word: bytes, text: bytes, symbols: Mapping[str, str]) -> Verdict:
    if len(text) > _MAX_CONDITION:
        return None
    if word in (b"ifdef", b"ifndef"):
        verdict = _is_defined(text.split()[0].decode("ascii", "replace") if text else "", symbols)
        return _not(verdict) if word == b"ifndef" else verdict
    if text in (b"0", b"1"):
        return text == b"1"
    if b"||" in text and b"&&" in text:
        return None
    verdicts = [_term(part, symbols) for part in re.split(rb"&&|\|\|", text)]
    if b"||" in text:
        return True if True in verdicts else None if None in verdicts else False
    return False if False in verdicts else None if None in verdicts else True


def _term(text: bytes, symbols: Mapping[str, str]) -> Verdict:
    match = _TERM.fullmatch(text.strip())
    if match is None:
        return None
    name = match[4].decode()
    if match[2]:
        verdict = _is_defined(name, symbols)
    elif not name.startswith("CONFIG_"):
        return None
    else:
        verdict = None
        value, module = (symbols.get(name[7:] + end) == "1" for end in ("", "_MODULE"))
        if match[3] == b"IS_ENABLED":
            verdict = value or module
        elif match[3] == b"IS_BUILTIN":
            verdict = value
        elif match[3] == b"IS_MODULE":
            verdict = module
    return _not(verdict) if match[1] else verdict


def _is_defined(name: str, symbols: Mapping[str, str]) -> Verdict:
    if name.startswith("CONFIG_"):
        return name[7:] in symbols
    return _DEFINED.get(name)


def _not(verdict: Verdict) -> Verdict:
    return None if verdict is None else not verdict


def _either(one: Verdict, other: Verdict) -> Verdict:
    return True if one or other else None if None in (one, other) else False
