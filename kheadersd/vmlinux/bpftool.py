# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds a bpftool that only root can change."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgs, NotAvailable
from ..formats import elf
from ..sandbox.command import Command
from ..sandbox.runners import COMPILE_ENVIRONMENT
from ..system.file_identity import Identities, are_unchanged, identities_at
from ..system.files import opened, read_up_to
from ..system.root_owned import trusted_path
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..sandbox.command import Run

PLACES = (
    "/usr/sbin",
    "/usr/bin",
    "/usr/local/sbin",
    "/usr/lib/linux-tools/*",
    "/usr/lib/linux-tools-*",
)
"""The directories of bpftool. Ubuntu's /usr/sbin/bpftool is a script that runs the tool of the running kernel
only; the tools themselves are in the last two."""

_VERSION = re.compile(r"^(?:/.*/)?bpftool v([0-9][0-9A-Za-z.+~-]{0,63})$", re.MULTILINE)
_SECONDS = 10.0
_MAX_SIZE = 64 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Bpftool:
    """A bpftool that may be run.

    Attributes:
        path: without links; only root can change what it leads to.
        version: such as "7.1.0"; the kernel's or libbpf's, depending on the build.
        digest: sha256 of the file, 64 hex digits: another build may make another vmlinux.h.
        identities: those of the file, of what leads to it, and of the directories another may appear in.
    """

    path: Path
    version: str
    digest: str
    identities: Identities

    def is_current(self) -> bool:
        """Whether the file has not changed, and no other bpftool has appeared; microseconds."""
        return are_unchanged(self.identities)


async def find_bpftool(run: Run, places: Sequence[str] = PLACES) -> Bpftool:
    """The first bpftool in ``places`` that works and that only root can change; milliseconds.

    Args:
        run: runs it outside the daemon, for its version.
        places: directories; "*" stands for any part of a name.

    Raises:
        NotAvailable: there is none; the message says what is wrong with those that were found.
        Timeout: it does not end.
        KheadersError: ``run`` cannot run anything.
    """
    complaints: list[str] = []
    for path, digest, identities in await in_thread(_candidates, places, complaints):
        finished = await run(Command([str(path), "version"], COMPILE_ENVIRONMENT, _SECONDS))
        if finished.status == 0 and (version := _VERSION.search(finished.stdout)):
            return Bpftool(path, version[1], digest, identities)
        complaints.append(f"{path} does not print its version (status {finished.status})")
    found = "; ".join(complaints) or f"it is not in {', '.join(places)}"
    raise NotAvailable(
        f"there is no bpftool to make vmlinux.h with: {found}. "
        "It is in the package bpftool, on Ubuntu also in linux-tools, on Arch Linux in bpf"
    )


def _candidates(places: Sequence[str], complaints: list[str]) -> list[tuple[Path, str, Identities]]:
    """Those that may be run, with digest and identities; adds to ``complaints`` what is wrong with others."""
    usable = []
    seen = set()
    for named in _present(places):
        try:
            path, links = trusted_path(named)
            if path in seen:
                continue
            seen.add(path)
            # Before it is read: a file that replaces it meanwhile has another identity.
            identities = identities_at((path, *links, *map(_fixed, places)))
            usable.append((path, _digest(path), identities))
        except (InvalidArgs, _Unusable) as error:
            complaints.append(str(error))
        except OSError as error:
            complaints.append(f"{named} cannot be read: {error.strerror}")
    return usable


def _present(places: Sequence[str]) -> Iterator[Path]:
    """The paths that exist; of several versions, the highest name first."""
    for place in places:
        yield from sorted(Path("/").glob(f"{place.lstrip('/')}/bpftool"), reverse=True)


def _fixed(place: str) -> Path:
    """The directory above the part of a path that is a pattern."""
    directory = Path(place)
    while "*" in str(directory):
        directory = directory.parent
    return directory


def _digest(path: Path) -> str:
    with opened(path) as (descriptor, status):
        if not status.st_mode & 0o111 or status.st_size > _MAX_SIZE:
            raise _Unusable(f"{path} is no program")
        data = read_up_to(descriptor, _MAX_SIZE)
    if not data.startswith(elf.MAGIC):
        raise _Unusable(f"{path} is a script, which finds nothing for other kernels")
    return hashlib.sha256(data).hexdigest()


class _Unusable(Exception):
    """A file named bpftool that is not run; the message says why."""
