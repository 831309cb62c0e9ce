# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory that package managers and skopeo work in, and how commands run: bounded, in a unit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError, LimitsExceeded, NoSpace, Timeout
from ..formats.deb import HeldFile
from ..sandbox.command import Command, Finished
from ..sandbox.runners import network_runner
from ..system.disk import explained, free_bytes
from ..system.files import read_text
from ..system.printable import printable, without_secrets
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_DOWNLOAD = 256 << 20
"""Bytes in all packages of one release; real ones have 12 to 30 MiB."""

MAX_INDEX = 1 << 30
"""Bytes in one file that a package manager writes while it looks for a package."""

QUERY_SECONDS = 60.0
DOWNLOAD_SECONDS = 600.0

UPDATE_INTERVAL = 600.0
"""Seconds for which the lists of packages are not fetched again."""

_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_MAX_LINES = 3
_MAX_LINE = 200  # characters
_FULL = re.compile(r"No space left on device|Disk quota exceeded|not enough free disk space", re.IGNORECASE)
_TOO_LARGE = re.compile(r"File too large|File size limit exceeded|Maximum file size exceeded", re.IGNORECASE)


def clean_environment() -> dict[str, str]:
    """The search path and the proxies of the daemon's environment, and a language of known messages."""
    names = ("PATH", *_PROXIES, *(name.upper() for name in _PROXIES))
    kept = {name: os.environ[name] for name in names if name in os.environ}
    kept.setdefault("PATH", os.defpath)
    # HOME keeps package managers and gpg from reading a user's configuration.
    return {**kept, "LC_ALL": "C", "HOME": "/nonexistent", "DEBIAN_FRONTEND": "noninteractive"}


class PackageWork:
    """A directory of the daemon's own, in which the commands of a package manager run.

    Args:
        directory: made when needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._preparing = threading.Lock()
        self._is_cleared = False

    def prepare(self) -> None:
        """Make the directory if it is not there; the first time, remove what a crash left in it. Blocks.

        Raises:
            KheadersError: it cannot be made.
        """
        with self._preparing:
            try:
                self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            except OSError as error:
                raise KheadersError(f"cannot make {self.directory}: {error.strerror}") from error
            if not self._is_cleared:
                for left in self.directory.glob("run-*"):
                    shutil.rmtree(left, ignore_errors=True)
                self._is_cleared = True

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for one run, with "packages" and "tmp" in it, removed in the end.

        Removed at once, not in a thread: it has a handful of files.

        Raises:
            KheadersError: it cannot be made.
        """
        try:
            path = Path(tempfile.mkdtemp(prefix="run-", dir=self.directory))
        except OSError as error:
            raise KheadersError(f"cannot make a directory in {self.directory}: {error.strerror}") from error
        try:
            for name in ("packages", "tmp"):
                (path / name).mkdir(mode=0o755)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    async def run(
        self,
        words: Sequence[str],
        scratch: Path,
        *,
        seconds: float = QUERY_SECONDS,
        max_file: int = MAX_DOWNLOAD,
        stdout: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Finished:
        """Run a command in kheaders-fetch@.service, or as a child where that is not offered.

        Its standard input is empty: a question gets no answer.

        Args:
            scratch: of `scratch`; the command's working directory.
            max_file: bytes that any file may have that it writes.
            stdout: a descriptor to write to instead of what is kept.
            environment: variables besides those that every command gets.

        Raises:
            Timeout: it took longer than ``seconds``, and was killed.
            KheadersError: it cannot be run.
        """
        variables = {**clean_environment(), "TMPDIR": str(scratch / "tmp"), **(environment or {})}
        bounded = ["prlimit", f"--fsize={max_file}", "--core=0", "--", *words]
        command = Command(bounded, variables, seconds, scratch, stdout=stdout)
        try:
            return await network_runner()(command)
        except Timeout as error:
            raise Timeout(error.message.replace("prlimit", words[0], 1)) from None
        except OSError as error:
            raise KheadersError(f"cannot run {words[0]} in {scratch}: {error.strerror}") from error

    def check_size(self, names: str, size: int) -> None:
        """Refuse in advance what is too large, or does not fit.

        Args:
            names: of the packages.
            size: in bytes, as the package manager says it.

        Raises:
            LimitsExceeded: it is more than `MAX_DOWNLOAD`.
            NoSpace: the file system has less room.
        """
        if size > MAX_DOWNLOAD:
            raise LimitsExceeded(f"{names}: {size} bytes, and {MAX_DOWNLOAD} are accepted")
        free = free_bytes(self.directory)
        if size > free:
            raise NoSpace(f"{names}: {size} bytes to download, and {free} are free in {self.directory}")


class UpdateMark:
    """A file as old as a package manager's lists, with its complaints when it fetched them.

    Args:
        path: in a directory of the manager's, which is made when needed.
        manager: a word, for messages.
    """

    def __init__(self, path: Path, manager: str) -> None:
        self._path = path
        self._manager = manager

    def exists(self) -> bool:
        """Whether they were fetched, whenever that was."""
        return self._path.exists()

    def is_new(self) -> bool:
        """Whether they were fetched within `UPDATE_INTERVAL`."""
        try:
            age = time.time() - self._path.stat().st_mtime
        except OSError:
            return False
        return 0 <= age < UPDATE_INTERVAL

    def complaint(self) -> str:
        """What the manager complained about; "" if about nothing."""
        try:
            return read_text(self._path)
        except OSError:
            return ""

    def note(self, complaint: str = "") -> None:
        """Say that they are new.

        Raises:
            NoSpace: the file system is full.
        """
        with explained(f"note that {self._manager}'s lists are new", self._path.parent):
            self._path.parent.mkdir(exist_ok=True)
            self._path.write_text(complaint, encoding="utf-8")


def summary(complaints: str, is_said: Callable[[str], bool] = bool) -> str:
    """The last three different lines of what a command complained about, without passwords; "" if none.

    Args:
        is_said: whether a line is of interest.
    """
    lines = [line.strip() for line in without_secrets(complaints).splitlines()]
    told = list(dict.fromkeys(line for line in lines if line and is_said(line)))
    return "; ".join(printable(line, _MAX_LINE) for line in told[-_MAX_LINES:])


def disk_failure(what: str, complaints: str) -> KheadersError | None:
    """The error of a command whose complaints are about a full disk or a file that is too large.

    Args:
        what: completes "… cannot be …"; names the packages.
    """
    told = summary(complaints)
    if _FULL.search(complaints):
        return NoSpace(f"{what}, the disk is full: {told}")
    if _TOO_LARGE.search(complaints):
        return LimitsExceeded(f"{what}, a file would have more bytes than are accepted: {told}")
    return None


def open_package(directory: Path, suffixes: tuple[str, ...], manager: str, name: str) -> HeldFile:
    """Open the one package in a directory.

    Args:
        suffixes: what its name can end with.
        manager: the command that was to write it.
        name: of the package, for messages.

    Raises:
        NotFound: there is none.
        Corrupt: there are several, or it is no regular file.
    """
    found = [path for path in directory.iterdir() if path.name.endswith(suffixes)]
    if not found:
        raise NotFound(Reason.UNREADABLE, f"{manager} reported no failure, and left no file for {name}")
    if len(found) > 1:
        raise Corrupt(f"{manager} left {len(found)} packages for {name}")
    try:
        return HeldFile(found[0])
    except OSError as error:
        raise Corrupt(f"{printable(found[0].name)} cannot be read: {error.strerror}") from error


def digest_of(packages: Sequence[str]) -> str:
    """The digest of an archive of packages with these sha256, in hex; see `Archive.digest`."""
    return hashlib.sha256("".join(f"{sha256}\n" for sha256 in packages).encode("ascii")).hexdigest()
