"""Where the headers are in Debian's packages."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..formats.deb import find_data, open_part
from ..formats.decompress import chunks
from .source import Layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..formats.deb import HeldFile


def layer(file: HeldFile, place: Callable[[str], str | None]) -> Layer:
    """The files of the package as a layer, which keeps ``file`` open.

    Raises:
        Corrupt: see `find_data`.
    """
    offset, size = find_data(file)
    data = functools.partial(open_part, file, offset, size)
    return Layer(file.label, functools.partial(chunks, data, file.label), place)


def place_whole(package: str, srcarch: str) -> Callable[[str], str | None]:
    """`Layer.place` for a package that has the whole tree, as the kernel's own ``bindeb-pkg`` makes it."""
    return _place(package, srcarch, generated=True, written=True)


def place_generated(package: str, srcarch: str) -> Callable[[str], str | None]:
    """`Layer.place` for the flavour's package of a split tree: what its build generated.

    Debian's has nothing else below include/ and arch/*/include. Ubuntu's has symlinks into the common package
    for all the rest (include/linux -> ../../linux-headers-6.8.0-31/include/linux), and what they stand for
    is merged in from there.
    """
    return _place(package, srcarch, generated=True, written=False)


def place_written(package: str, srcarch: str) -> Callable[[str], str | None]:
    """`Layer.place` for the common package of a split tree: what the kernel's source has."""
    return _place(package, srcarch, generated=False, written=True)


def _place(package: str, srcarch: str, *, generated: bool, written: bool) -> Callable[[str], str | None]:
    """Map ``usr/src/<package>/x`` to ``x`` where x is in the directories kernel/gen_kheaders.sh takes.

    The two kinds never meet, as kbuild generates into directories that the source does not have: so no file
    is in two layers. Left out is include/config, thousands of empty files by which kbuild notices changes.
    """
    prefix = f"usr/src/{package}/"
    arch = f"arch/{srcarch}/include"
    made = ("include/generated", arch + "/generated")

    def place(name: str) -> str | None:
        if not name.startswith(prefix):
            return None
        rest = name[len(prefix) :]
        if not _is_below(rest, "include") and not _is_below(rest, arch):
            return None
        if _is_below(rest, "include/config"):
            return None
        is_made = _is_below(rest, made[0]) or _is_below(rest, made[1])
        return rest if (generated if is_made else written) else None

    return place


def _is_below(name: str, directory: str) -> bool:
    return name == directory or name.startswith(directory + "/")
