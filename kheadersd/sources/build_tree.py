# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of a tree of kernel headers: their names, and what they say of the kernel."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from ..host.architecture import MAX_AUTOCONF, Configuration, read_configuration
from ..system.file_identity import FileIdentity, identity_of
from ..system.files import read_file
from ..system.printable import printable
from .source import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable


OF_SOURCE = ("include/linux/kconfig.h", "include/linux/types.h")
"""What every source tree has. bcc looks for the first of them before it believes in a tree."""

AUTOCONF = "include/generated/autoconf.h"
"""The configuration of the kernel."""

UTSRELEASE = "include/generated/utsrelease.h"
"""The release of the kernel."""

OF_BUILD = (AUTOCONF, UTSRELEASE)
"""What a kernel's build generates."""

_INCLUDES = (
    "arch/{}/include",
    "arch/{}/include/generated",
    "include",
    "arch/{}/include/uapi",
    "arch/{}/include/generated/uapi",
    "include/uapi",
    "include/generated/uapi",
)


class Unusable(Exception):
    """With a tree no program of the release's kernel compiles.

    Attributes:
        reason: INCOMPLETE, OTHER_RELEASE or UNREADABLE.
        message: the reason in words, naming the file that was looked at.
        places: the paths where what is missing could be.
    """

    def __init__(self, reason: Reason, message: str, places: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.places = tuple(places)


def include_directories(arch: str) -> tuple[str, ...]:
    """The names in a tree of the directories that headers are looked for in, in kbuild's order."""
    return tuple(name.format(arch) for name in _INCLUDES)


def architecture(build_tree: Path) -> str:
    """The kernel's name of the architecture of a build tree, as its autoconf.h says: "x86".

    Blocking: some milliseconds, some microseconds if it is the tree that was asked for last.

    Raises:
        Unusable: INCOMPLETE or UNREADABLE.
    """
    found = configuration(build_tree).architecture
    if found is None:
        raise Unusable(
            Reason.INCOMPLETE,
            f"{build_tree / AUTOCONF} configures no architecture, or more than one, so no program compiles",
        )
    return found


def configuration(build_tree: Path) -> Configuration:
    """What the autoconf.h of a build tree says; blocking, as `architecture`.

    Raises:
        Unusable: INCOMPLETE (there is none) or UNREADABLE.
    """
    path = build_tree / AUTOCONF
    try:
        status = path.stat()
        return _configuration(str(path), identity_of(status))
    except FileNotFoundError:
        raise Unusable(Reason.INCOMPLETE, f"{path} is missing") from None
    except OSError as error:
        raise unreadable(path, error) from None


# It has some 7,000 symbols, 0.7 MB: one is enough for several questions about the same tree.
@functools.lru_cache(maxsize=1)
def _configuration(path: str, identity: FileIdentity) -> Configuration:  # noqa: ARG001 - part of the key
    return read_configuration(read_file(path, MAX_AUTOCONF))


def unreadable(path: Path, error: OSError) -> Unusable:
    """The refusal of a tree that has a file that cannot be read."""
    return Unusable(Reason.UNREADABLE, f"{printable(str(path))} cannot be read: {error.strerror}")
