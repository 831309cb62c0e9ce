# SPDX-License-Identifier: LGPL-2.1-or-later
"""The arguments with which ``kheadersctl cc`` compiles a program with plain headers, without the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.pch_files import PREFIX
from ..errors import KheadersError
from ..pch import profiles
from ..pch.compile import precompilable
from ..pch.compilers import Compiler
from ..pch.recipe import LIBBPF, clang_recipe
from ..sources.build_tree import Unusable
from ..system.printable import printable
from .failures import FAILED, NOT_AVAILABLE, USAGE, CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..pch.profiles import Profile
    from ..pch.recipe import Recipe


def find_profile(name: str) -> Profile:
    """A profile of this host. Blocking.

    Raises:
        CommandError: there is no such profile.
    """
    known, _ = profiles.load(profiles.DIRECTORIES)
    if name not in known:
        raise CommandError(USAGE, f"there is no profile {printable(name)}")
    return known[name]


def plain_recipe(
    profile: Profile, clang: Path, resource: Path, details: Mapping[str, Any], directory: Path
) -> Recipe:
    """The compiler's arguments for headers; in ``directory``, the files to which they refer. Blocking.

    Args:
        resource: clang's resource directory.
        details: of the headers, from the daemon.

    Raises:
        CommandError: no program can be compiled with the headers.
    """
    tree = Path(details["build_tree"])
    try:
        arch = precompilable(tree, details["release"])
        if details["source_tree"] != details["build_tree"]:
            raise CommandError(
                FAILED,
                f"the headers in {details['source_tree']} and {details['build_tree']} are in two trees, and "
                "there is no precompiled header of them",
            )
        compiler = Compiler("clang", clang, "", 0, "", resource, {}, {})
        made = clang_recipe(profile, compiler, tree, "", arch, beside=directory)
    except (KheadersError, Unusable) as error:
        raise CommandError(NOT_AVAILABLE, error.message) from None
    (directory / "include").mkdir()
    (directory / "include/bpf").symlink_to(LIBBPF)
    (directory / PREFIX).write_bytes(made.prefix)
    return made
