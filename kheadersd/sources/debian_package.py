# SPDX-License-Identifier: LGPL-2.1-or-later
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


def place_of(
    package: str, srcarch: str, *, generated: bool = True, written: bool = True
) -> Callable[[str], str | None]:
    """`Layer.place` for a package: ``usr/src/<package>/x`` is x where kernel/gen_kheaders.sh takes x, too.

    The flavour's package of a split tree has what the build generated. Debian's has nothing else below
    include/ and arch/*/include. Ubuntu's has symlinks into the common package for all the rest (include/linux
    -> ../../linux-headers-6.8.0-31/include/linux), which is taken from there. The two kinds never meet, as
    kbuild generates into directories that the source does not have: so no file is in two layers. Left out is
    include/config, thousands of empty files by which kbuild notices changes.

    Args:
        generated: whether what the build generated is taken.
        written: whether what the kernel's source has is taken.
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
