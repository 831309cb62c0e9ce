# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where headers come from: six sources behind one small interface, none of which knows the cache.

One source finds trees that are usable in place, the others archives to be extracted. A source that has no
headers raises `NotFound` with the reason.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..progress import Report
    from ..release import Release


class Reason(enum.Enum):
    """The typed reasons for which a source has nothing."""

    MISSING = "missing"  # nothing is there
    DANGLING = "dangling"  # a symlink leads nowhere: the headers package is not installed
    INCOMPLETE = "incomplete"  # a left-over without kconfig.h, or without what was generated
    OTHER_RELEASE = "other-release"  # it is another kernel's
    NOT_RUNNING = "not-running"  # this source only serves the running kernel
    VANISHED = "vanished"  # it went away while it was read, again and again
    UNREADABLE = "unreadable"  # it is there but could not be read
    UNSUPPORTED = "unsupported"  # this host cannot have it: no module loading, no known package manager


class NotFound(Exception):
    """A source has no headers for the release: not a failure, the next source is asked.

    Attributes:
        reason: the typed reason.
        message: the reason in words, naming the path that was looked at.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


RANDOMISED = (
    "the kernel {} randomises the order of members in structures (CONFIG_RANDSTRUCT): programs compile, and "
    "the offsets that they take from headers are not the kernel's; those of its BTF are"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Tree:
    """Headers that are served where they are. The two paths are equal for a whole tree.

    Attributes:
        randomised: whether the kernel has its structures' members in a random order that headers do not tell.
    """

    source_tree: Path
    build_tree: Path
    randomised: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One tar stream of an archive, already decompressed.

    Attributes:
        label: what messages call it: a file name.
        chunks: starts the stream anew; yields pieces of at most 1 MiB, and empty ones while it takes long.
            Raises Corrupt on the way when it is damaged, cut short or followed by garbage. Closing the
            iterator frees all it holds.
        place: maps a member's name (normalised: no leading "./", no trailing "/") to its name in the tree, or
            to None to leave the member out.
        tar_bytes: the length of the decompressed stream if it is known in advance, else 0.
    """

    label: str
    chunks: Callable[[], Iterator[bytes]]
    place: Callable[[str], str | None]
    tar_bytes: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Archive:
    """Headers that are extracted before they can be served.

    Attributes:
        digest: sha256 of the archive as it was found, 64 hex digits; of a set of packages, the sha256 of the
            lines "<sha256 of the package>\n" in the order of the layers.
        layers: the streams that make up the tree, merged in this order. No name may occur in two of them.
        origin: the file or package names that it came from, for the journal and `Describe`.
        build_id: the running kernel's build-id when the archive belongs to exactly that build, else "".
        origin_stamp: identity of the origin on disk, so that a replaced file is noticed (see `stamp`); "" if
            there is none.
    """

    digest: str
    layers: Sequence[Layer]
    origin: str
    build_id: str = ""
    origin_stamp: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may have at most; a real one has some 7,000 files and 32 MB.

    Attributes:
        max_files: files, directories and symlinks together.
        max_bytes: of all files together, and of each decompressed stream with its headers.
        max_depth: components of a name.
        max_name: bytes of a whole name in UTF-8, or of what a symlink points at.
        max_component: bytes of one component of a name.
        max_names: characters of all names, of directories that only other names imply too, and of all that
            symlinks point at; text that is not plain ASCII counts four times. A real one has some 300,000.
    """

    max_files: int = 100_000
    max_bytes: int = 1 << 30
    max_depth: int = 32
    max_name: int = 1024
    max_component: int = 255
    max_names: int = 8 << 20


def whole(name: str) -> str:
    """The `Layer.place` of an archive that is taken as it is."""
    return name


class Source(Protocol):
    """One place to look for archives."""

    name: str

    async def find(self, release: Release, report: Report) -> Archive:
        """Look for the headers of ``release``.

        Disk, children and the network are used off the event loop. Cancelling leaves nothing behind.

        Raises:
            NotFound: this source has no headers for the release.
            KheadersError: it has something, but that is damaged, another kernel's, or cannot be got at.
        """
        ...
