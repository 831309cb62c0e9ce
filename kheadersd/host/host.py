# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host that is served: where its files are, and which kernel runs on it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InvalidArgs, NotAvailable
from ..formats.elf import build_id_in
from ..release import Release, parse_release
from ..system.files import read_file, read_text
from ..system.links import resolved

if TYPE_CHECKING:
    from collections.abc import Iterator

_LIVE_ROOT = Path("/")
_OSRELEASE = "proc/sys/kernel/osrelease"
_MAX_NOTES = 1 << 20  # bytes; a kernel has some 500
# Where distributions have the kernels' modules: NixOS and Guix have those of the kernel that was booted, and
# of the one that will be, only there.
_MODULES = (
    "lib/modules",
    "usr/lib/modules",
    "run/booted-system/kernel-modules/lib/modules",
    "run/current-system/kernel-modules/lib/modules",
    "run/booted-system/kernel/lib/modules",
    "run/current-system/kernel/lib/modules",
)


@functools.lru_cache(maxsize=64)
def _places(root: Path, release: Release) -> tuple[Path, ...]:
    """`Host.modules_places`: each request asks for them, and paths are slow to make."""
    return tuple(root / base / release for base in _MODULES)


class Host:
    """The tree of files below ``root``: ``/`` itself, or an image, a container or a trial.

    Attributes:
        root: the directory that is the host's ``/``.
        running: the release of the kernel that runs there; None if that is not known.
        running_unknown: why not, "" where it is known.
        build_id: the running kernel's GNU build-id in hex, ``""`` where it cannot be read. Two builds can
            have one release: Debian keeps it across security updates of one ABI.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root.resolve()
        self.running: Release | None = None
        self.running_unknown = ""
        try:
            self.running = self._running_release()
        except (OSError, InvalidArgs) as error:
            self.running_unknown = self._why_unknown(error)
        self.build_id = self._build_id()

    def release_of(self, text: str) -> Release:
        """The release that a caller asks for: ``""`` is the running kernel's.

        Raises:
            InvalidArgs: it cannot be a release.
            NotAvailable: it is not known which kernel runs.
        """
        if text:
            return parse_release(text)
        if self.running is None:
            raise NotAvailable(f"{self.running_unknown}; name the release that is wanted")
        return self.running

    @property
    def running_kernel(self) -> str:
        """The running kernel, in words for a message."""
        return "an unknown kernel" if self.running is None else f"kernel {self.running}"

    @property
    def is_live(self) -> bool:
        """Whether this is the machine that the daemon runs on, whose module it may load and unload."""
        return self.root == _LIVE_ROOT

    def path(self, *parts: str) -> Path:
        """A path below the root; ``parts`` are relative names that are already known to be safe."""
        return self.root.joinpath(*(part.lstrip("/") for part in parts))

    def resolve(self, path: Path) -> Path:
        """The path without symlinks, as a process sees it whose ``/`` is the root.

        Args:
            path: an absolute path that begins with the root.

        Raises:
            OSError: a component does not exist (ENOENT), is not a directory (ENOTDIR), or there are too many
                links (ELOOP).
        """
        if self.is_live:
            return Path(os.path.realpath(path, strict=True))
        return resolved(path, self.root)

    def inside(self, path: Path) -> Path:
        """The path to open for ``path``: on this machine itself, in an image the one without symlinks.

        The kernel would follow the absolute symlinks of an image to files of this machine.

        Raises:
            OSError: as `resolve`, for an image only.
        """
        return path if self.is_live else self.resolve(path)

    def exists(self, path: Path) -> bool:
        """Whether ``path`` exists, in an image below its root."""
        try:
            return self.inside(path).exists()
        except OSError:
            return False

    def modules_places(self, release: Release) -> list[Path]:
        """Where a directory with the modules of a kernel can be, whether or not there is one."""
        return list(_places(self.root, release))

    def modules_directories(self, release: Release) -> list[Path]:
        """The directories with the modules of a kernel, each once, that where tools look first.

        There can be several: one with the modules, and one that an administrator made for the link alone.
        """
        found: dict[tuple[int, int], Path] = {}
        for directory, identity in self._modules_directories(release):
            found.setdefault(identity, directory)
        return list(found.values())

    def modules_directory(self, release: Release) -> Path:
        """The first of `modules_directories`, ``/lib/modules/<release>`` if there is none; microseconds."""
        for directory, _ in self._modules_directories(release):
            return directory
        with contextlib.suppress(OSError):
            return self.inside(self.path(_MODULES[0])) / release
        return self.path(_MODULES[0], release)

    def _modules_directories(self, release: Release) -> Iterator[tuple[Path, tuple[int, int]]]:
        """Each place that is a directory, and what it is: several places can be one directory."""
        for place in _places(self.root, release):
            with contextlib.suppress(OSError):
                directory = self.inside(place)
                status = directory.stat()
                if stat.S_ISDIR(status.st_mode):
                    yield directory, (status.st_dev, status.st_ino)

    def installed_releases(self) -> set[Release]:
        """The kernels that have modules on this host; blocking."""
        names: set[str] = set()
        for base in _MODULES:
            with contextlib.suppress(OSError):
                names.update(os.listdir(self.inside(self.path(base))))
        installed = set()
        for name in names:
            with contextlib.suppress(InvalidArgs):
                release = parse_release(name)
                # A directory that a removed kernel left behind has no modules any more.
                parts = itertools.product(self.modules_directories(release), ("kernel", "modules.dep"))
                if any(_may_exist(directory / part) for directory, part in parts):
                    installed.add(release)
        return installed

    def _running_release(self) -> Release:
        """The release in /proc of this host: an image never has the machine's own."""
        if self.is_live:
            return parse_release(os.uname().release)
        return parse_release(read_text(self.inside(self.path(_OSRELEASE))).removesuffix("\n"))

    def _why_unknown(self, error: OSError | InvalidArgs) -> str:
        where = "uname(2)" if self.is_live else str(self.path(_OSRELEASE))
        reason = error.strerror if isinstance(error, OSError) else error.message
        return f"it is not known which kernel runs: {where}: {reason}"

    def _build_id(self) -> str:
        try:
            notes = read_file(self.inside(self.path("sys/kernel/notes")), _MAX_NOTES)
        except OSError:
            return ""
        return build_id_in(notes)


def _may_exist(path: Path) -> bool:
    """Whether ``path`` exists, or cannot be looked at; Path.exists() tells them apart until Python 3.13."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
