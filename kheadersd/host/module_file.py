# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the kheaders module of a kernel is installed."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.files import read_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..release import Release
    from .host import Host

# kmod reads exactly these compressions.
_FILE_NAME = re.compile(r"kheaders\.ko(?:\.gz|\.xz|\.zst)?")
_STANDARD_DIRECTORY = "kernel/kernel"
_SUFFIXES = ("", ".xz", ".zst", ".gz")
_MAX_MODULES_DEP = 16 * 1024 * 1024  # bytes
# A full distribution kernel has some 5,000 modules in some 1,000 directories.
_MAX_DIRECTORIES = 20_000
_MAX_IN_DIRECTORY = 20_000


def locate(host: Host, release: Release) -> Path | None:
    """The real path of the kheaders.ko of ``release``, None if there is none.

    Looks where the kernel's build puts it, then in modules.dep, then everywhere below /lib/modules/<release>
    (weak-updates, updates, a depmod that did not run). Up to some tens of milliseconds.
    """
    for directory in host.modules_directories(release):
        with contextlib.suppress(OSError):
            if (path := _locate_below(host.resolve(directory), host)) is not None:
                return path
    return None


def _locate_below(directory: Path, host: Host) -> Path | None:
    for name in _candidates(directory):
        try:
            path = host.resolve(directory / name)
        except OSError:
            continue
        if path.is_file():
            return path
    return None


def _candidates(directory: Path) -> Iterator[str]:
    for suffix in _SUFFIXES:
        yield f"{_STANDARD_DIRECTORY}/kheaders.ko{suffix}"
    yield from _in_modules_dep(directory)
    yield from _in_directories(directory)


def _in_modules_dep(directory: Path) -> Iterator[str]:
    """What depmod(8) noted: lines of "<path below the directory>: <what it needs>"."""
    try:
        listing = read_start(directory / "modules.dep", _MAX_MODULES_DEP)
    except OSError:
        return
    for line in os.fsdecode(listing).splitlines():
        name = line.partition(":")[0]
        if _FILE_NAME.fullmatch(name.rpartition("/")[2]):
            yield name.lstrip("/")


def _in_directories(directory: Path) -> Iterator[str]:
    """Everywhere below, without following links to directories ("build" is one), within bounds."""
    pending = [directory]
    for _ in range(_MAX_DIRECTORIES):
        if not pending:
            return
        here = pending.pop()
        try:
            with os.scandir(here) as listing:
                some = itertools.islice(listing, _MAX_IN_DIRECTORY)
                entries = sorted(some, key=lambda entry: entry.name, reverse=True)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                # A left-over build directory is a whole source tree.
                if here != directory or entry.name not in ("build", "source"):
                    pending.append(Path(entry.path))
            elif _FILE_NAME.fullmatch(entry.name):
                yield str(Path(entry.path).relative_to(directory))
