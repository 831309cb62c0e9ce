# SPDX-License-Identifier: LGPL-2.1-or-later
"""dnf and dnf5, which find and download packages, and verify none: see `rpm_verify`.

Of the host's configuration, the repositories, proxies, variables and certificates are used. No plugin is run
but the one that downloads, the lists go to a directory of the daemon's own, and nothing of the host changes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..system.tasks import in_thread
from .package_work import (
    DOWNLOAD_SECONDS,
    MAX_DOWNLOAD,
    MAX_INDEX,
    QUERY_SECONDS,
    UPDATE_INTERVAL,
    disk_failure,
    summary,
)
from .rpm_repositories import (
    EXTRA,
    REPOSITORIES,
    read_repositories,
    read_variables,
    write_copies,
    write_variables,
)
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..host.host import Host
    from ..release import Release
    from ..sandbox.command import Finished
    from .package_work import PackageWork

_PROGRAMS = ("dnf5", "dnf-3")
# A release with which a dependency "kernel-devel-uname-r = R" means this kernel. Without a dash, R is a
# version, of which each build will do; with two it is none (rpm-dependencies(7)).
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~^]*-[A-Za-z0-9._+~^]*[A-Za-z0-9_]")
_TAGS = ("name", "epoch", "version", "release", "arch", "downloadsize", "repoid")
_FORMAT = " ".join(f"%{{{tag}}}" for tag in _TAGS) + r"\n"
_PART = r"[A-Za-z0-9._+~^]{1,64}"
_LINE = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._+-]{0,127}) ([0-9]{1,9}) "
    rf"({_PART}) ({_PART}) ([a-z0-9_]{{1,16}}) ([0-9]{{1,15}}) ([A-Za-z0-9_.:-]{{1,128}})"
)
# Not what dnf says at every start without a database of installed packages, nor its progress.
_COMPLAINT = re.compile(
    r"error|fail|ignoring|cannot|could ?n.t|warning|denied|abort|no more|no such|\[MIRROR\]", re.IGNORECASE
)
_NOISE = "cannot open Packages database"
_UNVERIFIED = re.compile(r"checksum doesn't match|checksum mismatch|Incorrect checksum", re.IGNORECASE)
_NO_DOWNLOAD = re.compile(r"No such command: download|dnf-command\(download\)")


@dataclasses.dataclass(frozen=True, slots=True)
class RpmPackage:
    """What the metadata of a repository, which nothing signs, says about a package.

    Attributes:
        size: of the file, in bytes.
        repository: the name of the repository that has it.
    """

    name: str
    epoch: str
    version: str
    release: str
    architecture: str
    size: int
    repository: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}-{self.release}"

    @property
    def full_name(self) -> str:
        """The name that stands for this package alone."""
        return f"{self.name}-{self.epoch}:{self.version}-{self.release}.{self.architecture}"


class Dnf:
    """Runs dnf5 or dnf. Belongs to the event loop.

    Args:
        program: one of those of `find_dnf`.
        extra: returns further addresses of repositories, of the configuration.
    """

    def __init__(
        self, program: str, host: Host, work: PackageWork, extra: Callable[[], Sequence[str]]
    ) -> None:
        self.program = program
        self._is_5 = program == "dnf5"
        self._host = host
        self._work = work
        self._extra = extra
        self._running = asyncio.Lock()  # as the lists are shared

    async def find(self, release: Release, scratch: Path, *, fetch: bool) -> tuple[RpmPackage | None, str]:
        """The package with the headers of exactly this release, and dnf's complaints while it looked.

        Args:
            scratch: a directory for what is needed meanwhile.
            fetch: whether lists that are old or missing are fetched.

        Raises:
            NotFound: MISSING, no package can be for such a release.
            NoSpace: the lists do not fit.
            Timeout: it took too long.
        """
        if not _RELEASE.fullmatch(release):
            raise NotFound(
                Reason.MISSING, f"no package of rpm's can provide kernel-devel-uname-r = {release}"
            )
        wanted = f"--whatprovides=kernel-devel-uname-r = {release}"
        options = [f"--setopt=*.metadata_expire={UPDATE_INTERVAL:.0f}"] if fetch else ["--cacheonly"]
        words = [*await self._words(scratch), *options, "repoquery", wanted, f"--queryformat={_FORMAT}"]
        seconds = DOWNLOAD_SECONDS if fetch else QUERY_SECONDS
        async with self._running:
            done = await self._work.run(words, scratch, seconds=seconds, max_file=MAX_INDEX)
        if failure := disk_failure(f"the lists of {self.program}'s repositories cannot be used", done.stderr):
            raise failure
        found = [package for line in done.stdout.splitlines() if (package := _package(line))]
        # Such as kernel-rt-devel beside kernel-devel, where the dependency is true of both.
        found.sort(key=lambda it: release != f"{it.version}-{it.release}.{it.architecture}")
        return (found[0] if found else None), _complaint(done, done.stderr)

    async def download(self, package: RpmPackage, scratch: Path) -> None:
        """Write the package to the directory "packages" of ``scratch``; it is not verified.

        Raises:
            NotFound: it cannot be downloaded now.
            Corrupt: it is not what the repository's own metadata promise.
            NoSpace, LimitsExceeded: the disk is full, or the package is larger than accepted.
            Timeout: it took too long.
        """
        words = [
            *await self._words(scratch),
            *("--setopt=*.metadata_expire=-1", f"--repo={package.repository}", "download"),
            *(f"--destdir={scratch}/packages", "--", package.full_name),
        ]
        async with self._running:
            done = await self._work.run(words, scratch, seconds=DOWNLOAD_SECONDS, max_file=MAX_DOWNLOAD)
        if done.status == 0:
            return
        printed = f"{done.stdout}\n{done.stderr}"
        told = _complaint(done, printed)
        if failure := disk_failure(f"{package} cannot be downloaded by {self.program}", printed):
            raise failure
        if _NO_DOWNLOAD.search(printed):
            raise NotFound(Reason.UNSUPPORTED, f"{self.program} cannot download: install dnf-plugins-core")
        if _UNVERIFIED.search(printed):
            raise Corrupt(f"{self.program} refused {package}: {told}")
        raise NotFound(Reason.UNREADABLE, f"{package} cannot be downloaded by {self.program}: {told}")

    async def _words(self, scratch: Path) -> list[str]:
        return await in_thread(self._configured, scratch)

    def _configured(self, scratch: Path) -> list[str]:
        """The program and the options that all its commands have; writes what they name. Blocks."""
        configuration = scratch / "config"
        own = configuration / "repos"
        own.mkdir(parents=True, exist_ok=True)
        extra = own / "extra.repo"
        extra.write_text("".join(map(_section, itertools.count(), self._extra())), encoding="utf-8")
        words = [self.program, "--assumeyes"]
        directories = [str(own)]
        if self._host.is_live:
            directories = [f"/{name}" for name in REPOSITORIES] + directories
        else:
            words += self._for_image(configuration)
        options = {
            "reposdir": ",".join(directories),
            "cachedir": str(self._work.directory / "dnf"),
            "logdir": str(scratch / "tmp"),
            "persistdir": str(scratch / "tmp"),
            # One repository that is down does not matter if another one has the package.
            "*.skip_if_unavailable": "1",
            # Many exclude kernels from their updates.
            "disable_excludes": "*" if self._is_5 else "all",
        }
        words += [f"--setopt={key}={value}" for key, value in options.items()]
        return words + (
            ["--setopt=plugins=0"] if self._is_5 else ["--disableplugin=*", "--enableplugin=download"]
        )

    def _for_image(self, configuration: Path) -> list[str]:
        variables = read_variables(self._host, os.uname().machine)
        directory = configuration / "vars"
        directory.mkdir(exist_ok=True)
        write_variables(directory, variables)
        write_copies(configuration / "repos/image.repo", self._host, read_repositories(self._host))
        main = configuration / "dnf.conf"
        main.write_text("[main]\n", encoding="utf-8")
        releasever = variables.get("releasever", ("",))[-1]
        chosen = [f"--releasever={releasever}"] if releasever else []
        return [f"--config={main}", f"--setopt=varsdir={directory}", *chosen]


def find_dnf() -> str | None:
    """The newest dnf of this machine, None if it has none."""
    return next((program for program in _PROGRAMS if shutil.which(program)), None)


def is_extra(repository: str) -> bool:
    """Whether a repository of this name is one of ``ExtraRepositories=``."""
    return repository.startswith(EXTRA)


def _section(number: int, address: str) -> str:
    return f"[{EXTRA}{number}]\nname=ExtraRepositories= of kheadersd.conf\nbaseurl={address}\nenabled=1\n"


def _package(line: str) -> RpmPackage | None:
    match = _LINE.fullmatch(line.strip())
    if match is None:
        return None
    name, epoch, version, release, architecture, size, repository = match.groups()
    return RpmPackage(name, epoch, version, release, architecture, int(size), repository)


def _complaint(done: Finished, printed: str) -> str:
    """What dnf complained about in what it printed; "" if it has not, and ended well."""

    def is_complaint(line: str) -> bool:
        return _COMPLAINT.search(line) is not None and _NOISE not in line

    told = summary(printed, is_complaint)
    if told or done.status == 0:
        return told
    return summary(printed) or f"it ended with status {done.status}"
