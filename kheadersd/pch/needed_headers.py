"""What of a tree a precompiled header still needs, so that the rest can go.

Clang does not look for a header that went into a precompiled one, with its content. It still reads those
without include guards, each time they are included, and it finds none in a directory that is not there. Which
they are is asked in two runs of the compiler: the first lists the files that went in, the second includes
each of them again and reports those that it reads.

``text`` below are the complete arguments for a program, without the precompiled header.
"""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .profiles import BCC, TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .profiles import Profile

_FROM_STDIN = ("-x", "c", "-")
# What libbcc's own headers include. It is in each precompiled header for bcc, and programs include it again.
_OF_LIBBCC = (
    "linux/types.h",
    "linux/bpf_common.h",
    "uapi/linux/if_packet.h",
    "linux/version.h",
    "linux/log2.h",
)
# As make wants them: a backslash before a space and before #, two dollars for one.
_DEPENDENCY = re.compile(r"(?:\\[ #]|\$\$|\\(?!\n)|[^\s\\])+")
_ESCAPED = re.compile(r"\\([ #])|\$(\$)")


def dependencies_arguments(text: Sequence[str]) -> tuple[str, ...]:
    """Arguments that list what a program on stdin includes, on stdout."""
    return (*text, "-M", "-MT", "x", *_FROM_STDIN)


def dependencies(output: str, tree: Path) -> tuple[str, ...]:
    """The names in the tree of what was included, of the output of `dependencies_arguments`; sorted."""
    _, _, listed = output.partition(":")
    paths = (_ESCAPED.sub(r"\1\2", match) for match in _DEPENDENCY.findall(listed))
    return _names(paths, tree)


def again(names: Sequence[str], tree: Path) -> bytes:
    """A program that includes each of these once more."""
    return "".join(f'#include "{tree}/{name}"\n' for name in names).encode()


def again_arguments(text: Sequence[str], pch: Path) -> tuple[str, ...]:
    """Arguments that tell on stderr which headers of a program on stdin are read.

    The compiler fails: what has no include guard is often not meant to be included by itself.
    """
    reporting = ("-H", "-fsyntax-only", "-ferror-limit=0", "-w")
    return ("-include-pch", str(pch), *text, *reporting, *_FROM_STDIN)


def read_again(complaints: str, tree: Path) -> tuple[str, ...]:
    """The names in the tree of the headers that were read; sorted."""
    # One dot is the program itself; what those include in turn is in the program too.
    return _names((line[2:] for line in complaints.splitlines() if line.startswith(". ")), tree)


def directories(text: Sequence[str], tree: Path) -> tuple[str, ...]:
    """The names of those directories of the tree that headers are looked for in, in the order of ``text``.

    They have to be there, be it empty. Some trees lack some of them. Blocking, for microseconds.
    """
    searched = [item[2:] for item in text if item.startswith("-I")]
    searched += [path for option, path in itertools.pairwise(text) if option == "-isystem"]
    return tuple(
        dict.fromkeys(
            str(Path(path).relative_to(tree))
            for path in searched
            if Path(path).is_relative_to(tree) and Path(path) != tree and Path(path).is_dir()
        )
    )


def included_first(text: Sequence[str], tree: Path) -> tuple[str, ...]:
    """The names of the headers of the tree that come before each program.

    Bcc takes no tree without them for one. Blocking, for microseconds.
    """
    paths = (str(tree / path) for option, path in itertools.pairwise(text) if option == "-include")
    return tuple(name for name in _names(paths, tree) if (tree / name).is_file())


def canary(profile: Profile) -> str:
    """A program that can be compiled only if a precompiled header of this profile is usable as it is.

    It includes each header, and its debug information describes a type of the kernel.
    """
    before = _OF_LIBBCC if profile.consumer == BCC else ()
    included = "".join(f"#include <{name}>\n" for name in (*before, *profile.headers))
    if profile.base == TYPES:
        return included + _TYPES_CANARY
    return included + _HEADERS_CANARY


_TYPES_CANARY = """
__attribute__((section("kprobe/canary"), used)) int canary(struct pt_regs *registers)
{
	struct task_struct *task = 0;

	return __builtin_preserve_field_info(task->tgid, 0) + (registers != 0);
}

char canary_license[] __attribute__((section("license"), used)) = "GPL";
"""

# A list of somebody's own need not have the registers in it.
_HEADERS_CANARY = """
__attribute__((section("kprobe/canary"), used)) int canary(struct pt_regs *registers)
{
	return registers != 0;
}

char canary_license[] __attribute__((section("license"), used)) = "GPL";
"""


def _names(paths: Iterable[str], tree: Path) -> tuple[str, ...]:
    names = set()
    for path in paths:
        absolute = os.path.normpath(path)
        if absolute.startswith(f"{tree}/"):
            names.add(absolute[len(str(tree)) + 1 :])
    return tuple(sorted(names))
