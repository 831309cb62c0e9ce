# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files of a headers package are headers, and where they belong in a tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def place_below(
    directory: str, srcarch: str, *, generated: bool = True, written: bool = True
) -> Callable[[str], str | None]:
    """`Layer.place` for a package: ``<directory>/x`` is x where kernel/gen_kheaders.sh takes x, too.

    Left out is include/config, thousands of empty files by which kbuild notices changes.

    Args:
        directory: where the package has the tree, such as "usr/src/kernels/6.9.1".
        generated: whether what the build generated is taken.
        written: whether what the kernel's source has is taken.
    """
    prefix = f"{directory}/"
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
