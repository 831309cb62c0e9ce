# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the headers are in Debian's packages."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ..formats.deb import find_data, open_part
from ..formats.decompress import chunks
from .package_tree import place_below
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
    """`Layer.place` for a package, whose tree is ``usr/src/<package>``: see `place_below`.

    The flavour's package of a split tree has what the build generated. Debian's has nothing else below
    include/ and arch/*/include. Ubuntu's has symlinks into the common package for all the rest (include/linux
    -> ../../linux-headers-6.8.0-31/include/linux), which is taken from there. The two kinds never meet, as
    kbuild generates into directories that the source does not have: so no file is in two layers.
    """
    return place_below(f"usr/src/{package}", srcarch, generated=generated, written=written)
