"""Which bpftool there is, and that it is root's."""

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
"""Where bpftool may be. In Ubuntu's /usr/sbin is a script that only looks for the tools of the running
kernel, which are in the last two."""

_VERSION = re.compile(r"^(?:/.*/)?bpftool v([0-9][0-9A-Za-z.+~-]{0,63})$", re.MULTILINE)
_SECONDS = 10.0
_MAX_SIZE = 64 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Bpftool:
    """A bpftool that may be run.

    Attributes:
        path: resolved; nobody but root can change what it leads to.
        version: such as "7.1.0"; of the kernel's tree or of libbpf's, as it was built.
        digest: sha256 of the file, 64 hex digits: another build may make another vmlinux.h.
        stamps: of the file that was hashed, of what leads to it, and of where another one may appear.
    """

    path: Path
    version: str
    digest: str
    stamps: Identities

    def is_current(self) -> bool:
        """Whether it is still the one that was hashed, and nothing was put beside it; microseconds."""
        return are_unchanged(self.stamps)


async def find_bpftool(run: Run, places: Sequence[str] = PLACES) -> Bpftool:
    """The first bpftool in ``places`` that is root's and works; milliseconds.

    Args:
        run: what runs it, apart from us, to ask for its version.
        places: directories, in which "*" stands for any part of a name.

    Raises:
        NotAvailable: there is none; the message says what is wrong with those that were found.
        Timeout: it does not end.
        KheadersError: ``run`` cannot run anything.
    """
    complaints: list[str] = []
    for path, digest, stamps in await in_thread(_candidates, places, complaints):
        finished = await run(Command([str(path), "version"], COMPILE_ENVIRONMENT, _SECONDS))
        if finished.status == 0 and (version := _VERSION.search(finished.stdout)):
            return Bpftool(path, version[1], digest, stamps)
        complaints.append(f"{path} does not say its version (status {finished.status})")
    found = "; ".join(complaints) or f"it is not in {', '.join(places)}"
    raise NotAvailable(
        f"there is no bpftool to make vmlinux.h with: {found}. "
        "It is in the package bpftool, in Ubuntu also in linux-tools"
    )


def _candidates(places: Sequence[str], complaints: list[str]) -> list[tuple[Path, str, Identities]]:
    """Those that may be run, with digest and stamps; what is wrong with others is added to ``complaints``."""
    usable = []
    seen = set()
    for named in _present(places):
        try:
            path, links = trusted_path(named)
            if path in seen:
                continue
            seen.add(path)
            # Before it is read: a file that is replaced meanwhile is not taken for this one later.
            stamps = identities_at((path, *links, *map(_fixed, places)))
            usable.append((path, _digest(path), stamps))
        except (InvalidArgs, _Unusable) as error:
            complaints.append(str(error))
        except OSError as error:
            complaints.append(f"{named} cannot be read: {error.strerror}")
    return usable


def _present(places: Sequence[str]) -> Iterator[Path]:
    """Of several versions, the one with the highest name first."""
    for place in places:
        yield from sorted(Path("/").glob(f"{place.lstrip('/')}/bpftool"), reverse=True)


def _fixed(place: str) -> Path:
    """The directory in front of what is a pattern."""
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
    """Something is called bpftool and is not taken."""
