# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers packages of Debian and its derivatives, found, downloaded and verified by apt.

The source asks the host's own lists first. Where they have no package, or only one that has left the archive,
it fetches and asks lists of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import shutil
from typing import TYPE_CHECKING

from ..errors import Corrupt, NoSpace
from ..formats.deb import HeldFile
from ..host.architecture import of_debian_port
from ..system.tasks import in_thread
from .apt_command import AptCommands
from .apt_output import (
    OutdatedError,
    Package,
    download_failure,
    find_package,
    header_dependencies,
    is_disk_full,
    summary,
)
from .debian_package import layer, place_of
from .package_work import DOWNLOAD_SECONDS, QUERY_SECONDS, PackageWork, UpdateMark, digest_of
from .source import Archive, NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..host.host import Host
    from ..progress import Report
    from ..release import Release

MAX_QUERIES = 2
"""How many run at a time; one takes 1 s of CPU and 45 MiB with Debian's lists, and any user can cause it."""

# Debian policy, 5.6.7, for a name that begins with a kernel's version.
_IN_PACKAGE_NAME = re.compile(r"[0-9][a-z0-9.+-]*")


class Apt:
    """The package manager of Debian and its derivatives.

    Args:
        host: whose apt configuration and lists are used.
        work: a directory of the daemon's own, made when first needed; its lists, some 20 MB, stay in it.
    """

    def __init__(self, host: Host, work: Path) -> None:
        self._work = PackageWork(work)
        self._commands = AptCommands(host, self._work)
        self._configuration = host.path("etc/apt")
        self._host_lists = host.path("var/lib/apt/lists")
        self._own_lists = work / "lists"
        self._update_mark = UpdateMark(work / "updated", "apt")
        self._updating = asyncio.Lock()
        self._querying = asyncio.Semaphore(MAX_QUERIES)

    FAMILIES = ("debian", "ubuntu")

    @staticmethod
    def missing(host: Host) -> str:
        """What is missing to serve the host with apt; "" if nothing is."""
        if not host.path("etc/apt").is_dir():
            return f"no {host.path('etc/apt')}"
        return "" if shutil.which("apt-get") is not None else "no apt-get"

    async def offered(self, release: Release) -> str | None:
        """Name and version of the package for ``release`` in the lists that are here.

        None if it is in none of them, but new lists may have it. Nothing is downloaded.

        Raises:
            NotFound: it is in none of them, and the own lists are new.
            Timeout: apt did not answer in a minute.
            KheadersError: apt cannot be run.
        """
        name = _package_name(release)
        await in_thread(self._commands.prepare)
        own = [self._own_lists] if self._update_mark.exists() else []
        for lists in (self._host_lists, *own):
            try:
                return str(await self._show(lists, name))
            except OutdatedError as error:
                outdated = error
        if self._update_mark.is_new():
            raise self._not_found(outdated)
        return None

    async def fetch(self, release: Release, report: Report) -> Archive:
        """Download the package for ``release``, and those it depends on for the rest of the headers.

        When this returns, nothing is left in the directory but lists: the layers hold the packages open.

        Raises:
            NotFound: there is none, or it cannot be downloaded now.
            Corrupt: what came is not what the signed lists promise, or is not signed at all.
            NoSpace: the file system of the work directory is full, or would be.
            LimitsExceeded: the packages have more than 256 MiB.
            Timeout: apt took longer than ten minutes.
            KheadersError: apt cannot be run.
        """
        name = _package_name(release)
        await in_thread(self._commands.prepare)
        try:
            return await self._fetch_from(self._host_lists, name, report)
        except OutdatedError:
            await self._update(report)
        try:
            return await self._fetch_from(self._own_lists, name, report)
        except OutdatedError as error:
            raise self._not_found(error) from None

    async def _fetch_from(self, lists: Path, name: str, report: Report) -> Archive:
        own = await self._show(lists, name)
        rest = [await self._show(lists, *dependency) for dependency in header_dependencies(own)]
        packages = [own, *rest]
        self._work.check_size(_names(packages), sum(package.size for package in packages))
        with self._commands.scratch() as scratch:
            # "--": no name is taken for an option, not that one beginning with "linux-headers-" could be.
            command = ["apt-get", "-qq", "download", "--", *(f"{p.name}={p.version}" for p in packages)]
            progress = functools.partial(report, "downloading")
            done = await self._commands.run(lists, command, DOWNLOAD_SECONDS, scratch, progress)
            if done.status != 0:
                raise download_failure(_names(packages), done.stderr)
            return await in_thread(_archive, packages, scratch / "packages")

    async def _show(self, lists: Path, name: str, version: str = "") -> Package:
        wanted = f"{name}={version}" if version else name
        command = ["apt-cache", "show", "--no-all-versions", "--", wanted]
        async with self._querying:
            done = await self._commands.run(lists, command, QUERY_SECONDS)
        package = find_package(done.stdout, name, version)
        if package is None:
            raise OutdatedError(f"apt knows no package {wanted}")
        return package

    async def _update(self, report: Report) -> None:
        """Fetch the own lists, unless they are new.

        Failing is not final: the lists of one source can fail, and the headers be in another's.
        """
        async with self._updating:
            if self._update_mark.is_new():
                return
            with self._commands.scratch() as scratch:
                done = await self._commands.run(
                    self._own_lists,
                    ["apt-get", "-qq", "update"],
                    DOWNLOAD_SECONDS,
                    scratch,
                    functools.partial(report, "updating"),
                )
            complaint = summary(done.stderr)
            if is_disk_full(done.stderr):
                raise NoSpace(f"apt's lists do not fit into {self._own_lists}: {complaint}")
            self._update_mark.note(complaint)

    def _not_found(self, outdated: OutdatedError) -> NotFound:
        if complaint := self._update_mark.complaint():
            return NotFound(
                Reason.UNREADABLE, f"{outdated.message}, and could not fetch all its lists: {complaint}"
            )
        advice = f"the archives in {self._configuration} may have dropped it, or another one has it"
        return NotFound(Reason.MISSING, f"{outdated.message}; {advice}")


def _package_name(release: Release) -> str:
    """The package for a release. A kernel's begins with a digit, which the meta-packages' names do not.

    Raises:
        NotFound: MISSING, no package can have such a name.
    """
    # A package's name has no capitals and no underscores, which a release may have.
    version = release.lower().replace("_", "-")
    # What else apt takes for a version, a suite, an architecture or a pattern is in no package's name.
    if not _IN_PACKAGE_NAME.fullmatch(version):
        raise NotFound(
            Reason.MISSING, f"no Debian package of one kernel's headers can be named linux-headers-{version}"
        )
    return f"linux-headers-{version}"


def _names(packages: Sequence[Package]) -> str:
    return ", ".join(map(str, packages))


def _archive(packages: Sequence[Package], directory: Path) -> Archive:
    """Open and check what was downloaded. Blocks for some 20 ms."""
    own, *rest = packages
    srcarch = of_debian_port(own.architecture)
    if srcarch is None:
        raise NotFound(Reason.UNSUPPORTED, f"{own} is for {own.architecture!r}, which is not known here")
    digests = []
    layers = []
    with contextlib.ExitStack() as opened:
        for package in packages:
            file = _open(package, directory)
            opened.callback(file.close)
            sha256 = file.sha256()
            if file.size != package.size or package.sha256 not in ("", sha256):
                raise Corrupt(f"{file.label} is not what apt's lists promise: it has the sha256 {sha256}")
            digests.append(sha256)
            is_own = package is own
            place = place_of(package.name, srcarch, generated=is_own, written=not is_own or not rest)
            layers.append(layer(file, place))
        opened.pop_all()
    return Archive(digest_of(digests), tuple(layers), _names(packages))


def _open(package: Package, directory: Path) -> HeldFile:
    for path in directory.iterdir():
        if path.name.startswith(package.name + "_") and path.suffix == ".deb":
            try:
                return HeldFile(path)
            except OSError as error:
                raise Corrupt(f"{path.name} cannot be read: {error.strerror}") from error
    raise NotFound(Reason.UNREADABLE, f"apt-get download reported no failure, and left no file for {package}")
