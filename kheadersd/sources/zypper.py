# SPDX-License-Identifier: LGPL-2.1-or-later
"""zypper, which finds and downloads packages below a root directory of its own.

Of the host's configuration, the repositories, their variables, the proxies and the keys of rpm's database
are used. zypper asks whether a key is to be trusted, and gets no answer: the lists of a repository are used
if one of the host's keys signs them. They go to a directory of the daemon's own, and nothing of the host
changes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..system.tasks import in_thread
from .package_work import (
    DOWNLOAD_SECONDS,
    MAX_DOWNLOAD,
    MAX_INDEX,
    QUERY_SECONDS,
    disk_failure,
    summary,
)
from .rpm_repositories import (
    EXTRA,
    ZYPP_REPOSITORIES,
    ZYPP_VARIABLES,
    Repository,
    read_repositories,
    read_variables,
    write_variables,
    zypper_section,
)
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..host.host import Host
    from ..sandbox.command import Finished
    from .package_work import PackageWork
    from .rpm_verify import RpmTools

_PART = r"[A-Za-z0-9._+~^]{1,64}"
_EDITION = re.compile(rf"(?:([0-9]{{1,9}}):)?({_PART})-({_PART})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_ARCHITECTURE = re.compile(r"[a-z0-9_]{1,16}")
_SOLVABLE = re.compile(r"<solvable ([^<>]{1,2000})/>")
_ATTRIBUTE = re.compile(r'([a-z-]{1,32})="([^"<>]{0,256})"')
_UNVERIFIED = re.compile(
    r"Signature verification failed|Digest verification failed|seems to be corrupted|fails integrity check",
    re.IGNORECASE,
)
# What zypper says around every failure.
_NO_NEWS = re.compile(
    r"Skipping repository|Could not refresh|Some of the repositories|History:|Please check if|ABORT request"
)


@dataclasses.dataclass(frozen=True, slots=True)
class SusePackage:
    """What the signed lists of a repository say about a package."""

    name: str
    epoch: str
    version: str
    release: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}-{self.release}"

    @property
    def edition(self) -> str:
        """Its version as zypper writes it."""
        epoch = f"{self.epoch}:" if self.epoch != "0" else ""
        return f"{epoch}{self.version}-{self.release}"

    @property
    def full_name(self) -> str:
        """The name that stands for this package alone, as `RpmTools.full_name` has it."""
        return f"{self.name}-{self.epoch}:{self.version}-{self.release}.{self.architecture}"


class Zypper:
    """Runs zypper. Belongs to the event loop.

    Args:
        tools: have the host's keys.
        extra: returns further addresses of repositories, of the configuration.
    """

    def __init__(
        self, host: Host, work: PackageWork, tools: RpmTools, extra: Callable[[], Sequence[str]]
    ) -> None:
        self._host = host
        self._work = work
        self._tools = tools
        self._extra = extra
        self._running = asyncio.Lock()  # as the lists are shared

    async def refresh(self, words: Sequence[str], scratch: Path) -> str:
        """Fetch the lists, and return zypper's complaints meanwhile.

        The lists of one repository can fail, and the package be in another's.

        Args:
            words: what `configure` has returned for ``scratch``.

        Raises:
            NoSpace, LimitsExceeded: the lists do not fit.
            Timeout: it took too long.
        """
        command = [*words, "refresh"]
        async with self._running:
            done = await self._work.run(command, scratch, seconds=DOWNLOAD_SECONDS, max_file=MAX_INDEX)
        if failure := disk_failure("the lists of zypper's repositories cannot be used", done.stderr):
            raise failure
        return _complaint(done)

    async def find(
        self, words: Sequence[str], capabilities: Sequence[str], scratch: Path
    ) -> list[SusePackage]:
        """The packages that provide one of these, such as "kernel-devel = 6.4.0-1", the newest first.

        Args:
            words: what `configure` has returned for ``scratch``.

        Raises:
            Timeout: it took too long.
        """
        query = ["search", "--details", "--provides", "--match-exact", "--type=package", "--", *capabilities]
        command = [*words, "--xmlout", "--no-refresh", *query]
        async with self._running:
            done = await self._work.run(command, scratch, seconds=QUERY_SECONDS, max_file=MAX_INDEX)
        found = map(_package, _SOLVABLE.findall(done.stdout))
        return [package for package in found if package is not None]

    async def download(
        self, words: Sequence[str], packages: Sequence[SusePackage], scratch: Path
    ) -> list[Path]:
        """Write packages below the directory "packages" of ``scratch``; returns as many files, in no order.

        Args:
            words: what `configure` has returned for ``scratch``.

        Raises:
            NotFound: one cannot be downloaded now.
            Corrupt: one is not what the signed lists promise.
            NoSpace, LimitsExceeded: the disk is full, or a package is larger than accepted.
            Timeout: it took too long.
        """
        wanted = [f"{package.name} = {package.edition}" for package in packages]
        command = [*words, "--no-refresh", "download", "--", *wanted]
        async with self._running:
            done = await self._work.run(command, scratch, seconds=DOWNLOAD_SECONDS, max_file=MAX_DOWNLOAD)
        names = ", ".join(map(str, packages))
        if failure := disk_failure(f"{names} cannot be downloaded by zypper", done.stderr):
            raise failure
        # zypper ends well where it has downloaded nothing.
        files = await in_thread(_files_in, scratch / "packages", len(packages) + 1)
        if len(files) == len(packages) and done.status == 0:
            return files
        told = _complaint(done) or f"it reported no failure, and left {len(files)} files"
        if _UNVERIFIED.search(done.stderr):
            raise Corrupt(f"zypper refused {names}: {told}")
        raise NotFound(Reason.UNREADABLE, f"{names} cannot be downloaded by zypper: {told}")

    async def configure(self, scratch: Path, *, fetch: bool) -> list[str]:
        """Write what the other methods need into ``scratch``, once.

        Args:
            fetch: whether lists may be fetched. Without it, only the repositories count that have lists here.

        Returns:
            The program and the options that all its commands have; none if no repository can be used.

        Raises:
            NotFound: rpm has no database.
            Timeout: rpm took too long.
        """
        words = await in_thread(functools.partial(self._configured, scratch, fetch=fetch))
        if not words:
            return []
        done = await self._work.run(["rpm", "--eval", "%_dbpath"], scratch)
        place = PurePosixPath(done.stdout.strip())
        if not place.is_absolute() or ".." in place.parts or "%" in str(place):
            told = f"rpm does not say where its database is: {summary(done.stdout)}"
            raise NotFound(Reason.UNSUPPORTED, told)
        await self._tools.import_keys(scratch / "root" / place.relative_to("/"), (), scratch)
        return words

    def _configured(self, scratch: Path, *, fetch: bool) -> list[str]:
        cache = self._work.directory / "zypper"
        extra = [
            Repository(f"{EXTRA}{number}", {"baseurl": address})
            for number, address in enumerate(self._extra())
        ]
        sections = [
            section
            for repository in (*read_repositories(self._host, ZYPP_REPOSITORIES), *extra)
            if fetch or (cache / "raw" / repository.name / "repodata/repomd.xml").is_file()
            if (section := zypper_section(self._host, repository))
        ]
        if not sections:
            return []
        root, repositories, configuration = scratch / "root", scratch / "repos", scratch / "zypper.conf"
        repositories.mkdir()
        (repositories / "host.repo").write_text("".join(sections), encoding="utf-8")
        configuration.touch()
        variables = read_variables(self._host, os.uname().machine, ZYPP_VARIABLES)
        (root / "etc/zypp/vars.d").mkdir(parents=True)
        write_variables(root / "etc/zypp/vars.d", variables)
        version = variables.get("releasever", ("",))[0]
        return [
            *("zypper", "--quiet", "--non-interactive", f"--config={configuration}", f"--root={root}"),
            *(f"--reposd-dir={repositories}", f"--cache-dir={cache}"),
            f"--pkg-cache-dir={scratch / 'packages'}",
            *([f"--releasever={version}"] if version else []),
        ]


def _package(attributes: str) -> SusePackage | None:
    known = dict(_ATTRIBUTE.findall(attributes))
    edition = _EDITION.fullmatch(known.get("edition", ""))
    name, architecture = known.get("name", ""), known.get("arch", "")
    if edition is None or not _NAME.fullmatch(name) or not _ARCHITECTURE.fullmatch(architecture):
        return None
    return SusePackage(name, edition[1] or "0", edition[2], edition[3], architecture)


def _files_in(directory: Path, most: int) -> list[Path]:
    """The packages below a directory, ``most`` at most. Blocks."""
    found = (path for path in directory.rglob("*.rpm") if path.is_file() and not path.is_symlink())
    return sorted(itertools.islice(found, most))


def _complaint(done: Finished) -> str:
    """What zypper complained about; "" if it has not, and ended well."""
    told = summary(done.stderr, lambda line: _NO_NEWS.match(line) is None)
    return told or ("" if done.status == 0 else f"it ended with status {done.status}")
