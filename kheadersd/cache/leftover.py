"""What is in the directory of the cache, takes space there, and is no entry: it stays for a while."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Stay(enum.Enum):
    """Why a leftover is still there."""

    LEASED = "leased"
    """A lease was granted on it before another took its name. It goes when the last such lease ends."""

    OTHER_VERSION = "other version"
    """Another version of the daemon wrote the record, and may run again. The retention policy decides."""

    NOT_REMOVED = "not removed"
    """It was to be removed, and some of it could not be. That is tried again whenever the cache is pruned."""


@dataclasses.dataclass(frozen=True, slots=True)
class Leftover:
    """One directory that counts towards MaxSize=.

    Attributes:
        name: of the entry that it was; "" if that does not matter any more.
        inode: of the directory, which tells it from another that has its path by now.
        bytes: the space on disk that it takes.
        last_used: microseconds since the epoch.
    """

    stay: Stay
    name: str
    directory: Path
    inode: int
    bytes: int
    last_used: int
