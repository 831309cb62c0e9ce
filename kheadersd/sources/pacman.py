# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers packages of Arch Linux and its derivatives, found, downloaded and verified by pacman.

A kernel's package is called as its file /usr/lib/modules/RELEASE/pkgbase says, and has its headers in
another package with "-headers" behind that. A repository has one version of each: other ones are in an
archive, if ``ExtraRepositories=`` names one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import re
import shutil
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..formats.deb import open_part
from ..formats.decompress import chunks
from ..host.architecture import of_machine
from ..system.disk import explained
from ..system.files import read_text
from ..system.tasks import in_thread
from .package_tree import place_below
from .package_work import (
    DOWNLOAD_SECONDS,
    MAX_DOWNLOAD,
    MAX_INDEX,
    QUERY_SECONDS,
    PackageWork,
    UpdateMark,
    digest_of,
    disk_failure,
    open_package,
    summary,
)
from .pacman_config import MAIN, copy_keyring, pacman_configuration
from .source import Archive, Layer, NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from ..sandbox.command import Finished

SUFFIXES = (".pkg.tar.zst", ".pkg.tar.xz", ".pkg.tar.gz")

_BASE = re.compile(r"[a-z0-9][a-z0-9@._+-]{0,63}")
_FLAVOUR = re.compile(r"[A-Za-z][A-Za-z0-9]{0,31}")
_LEVEL = re.compile(r"_v[234]$")  # of x86_64, as CachyOS's packages have it
_VERSION = re.compile(r"(?:[0-9]{1,9}:)?[A-Za-z0-9._+~]{1,64}-[0-9][0-9.]{0,15}")
_FIELD = re.compile(r"^(Repository|Name|Version)[ ]{1,32}: (.{1,200})$", re.MULTILINE)
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}")
_COMPLAINT = re.compile(r"^error: |corrupted|\bPGP\b")
_UNVERIFIED = re.compile(
    r"PGP signature|invalid or corrupted package|missing required signature|checksum|missing from keyring"
    r"|\.sig' from [^\n]{1,200}404"
)
_MISSING = re.compile(r"target not found|was not found|could not find database|404")


@dataclasses.dataclass(frozen=True, slots=True)
class PacmanPackage:
    """A version of a package that a repository has, or an archive may have.

    Attributes:
        repository: its name, "" of an archive.
        address: in an archive, else "".
    """

    name: str
    version: str
    repository: str
    address: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Pacman:
    """The package manager of Arch Linux and its derivatives. Belongs to the event loop.

    Args:
        host: whose repositories and keyring are used.
        work: a directory of the daemon's own, made when first needed; the lists stay in it.
        extra: returns addresses of directories with packages of old kernels.
    """

    FAMILIES = ("arch",)

    def __init__(self, host: Host, work: Path, extra: Callable[[], Sequence[str]]) -> None:
        self._host = host
        self._work = PackageWork(work)
        self._extra = extra
        self._database = work / "pacman"
        self._update_mark = UpdateMark(self._database / "updated", "pacman")
        self._running = asyncio.Lock()  # as the lists are shared

    @staticmethod
    def missing(host: Host) -> str:
        """What is missing to serve the host with pacman; "" if nothing is."""
        if not host.exists(host.path(MAIN)):
            return f"no {host.path(MAIN)}"
        # pacman downloads for root alone, and fakeroot is the usual way around that (checkupdates(8)).
        return ", ".join(f"no {tool}" for tool in ("pacman", "fakeroot") if shutil.which(tool) is None)

    async def offered(self, release: Release) -> str | None:
        """See `PackageManager`; pacman looks into the lists that are here."""
        await in_thread(self._work.prepare)
        base = await in_thread(self._base, release)
        if not self._update_mark.is_new():
            return None
        with self._work.scratch() as scratch:
            return str(await self._find(base, release, scratch))

    async def fetch(self, release: Release, report: Report) -> Archive:
        """See `PackageManager`. When this returns, the layer holds the package open.

        Raises:
            NotFound: there is none, or it cannot be downloaded now.
            Corrupt: pacman could not verify it with the host's keyring.
            NoSpace: the file system of the work directory is full, or would be.
            LimitsExceeded: it has more than 256 MiB.
            Timeout: pacman took longer than ten minutes.
            KheadersError: pacman cannot be run.
        """
        await in_thread(self._work.prepare)
        base = await in_thread(self._base, release)
        with self._work.scratch() as scratch:
            report("updating", 0.0)
            complaint = await self._update(scratch)
            try:
                packages = [await self._find(base, release, scratch)]
            except NotFound as missing:
                packages = self._archived(base, release)
                if not packages:
                    raise self._explained(missing, complaint) from None
            report("downloading", 0.0)
            package = await self._download(packages, scratch)
            report("downloading", 1.0)
            return await in_thread(_archive, package, release, scratch / "packages")

    def _base(self, release: Release) -> str:
        """The name of the kernel's package; blocking.

        A kernel that was updated has lost its file; its release ends as the package's name: "6.6.32-1-lts"
        is of linux-lts.
        """
        path = self._host.modules_directory(release) / "pkgbase"
        try:
            said = read_text(self._host.inside(path)).strip()
        except OSError:
            flavour = _flavour(release)
            return f"linux-{flavour}" if flavour.islower() else "linux"
        if not _BASE.fullmatch(said):
            raise NotFound(Reason.UNREADABLE, f"{path} does not have the name of a package")
        return said

    async def _update(self, scratch: Path) -> str:
        """Fetch the lists of packages unless they are new; pacman's complaints."""
        async with self._running:
            if self._update_mark.is_new():
                return ""
            with explained("make a directory for pacman's lists", self._work.directory):
                self._database.mkdir(exist_ok=True)
            done = await self._pacman(
                scratch, "--sync", "--refresh", seconds=DOWNLOAD_SECONDS, max_file=MAX_INDEX, as_root=True
            )
            if failure := disk_failure("pacman's lists cannot be used", done.stderr):
                raise failure
            if done.status == 0:
                self._update_mark.note()
            return _told(done)

    async def _find(self, base: str, release: Release, scratch: Path) -> PacmanPackage:
        """The package in a repository whose version is that of the release.

        Raises:
            NotFound: MISSING, naming the versions that there are.
        """
        name = f"{base}-headers"
        async with self._running:
            done = await self._pacman(scratch, "--sync", "--info", "--", name, seconds=QUERY_SECONDS)
        found = _packages(done.stdout, name)
        for package in found:
            if _is_version_of(package.version, release, base):
                return package
        versions = ", ".join(str(package) for package in found) or f"no package {name}"
        raise NotFound(
            Reason.MISSING,
            f"pacman's repositories have {versions}, and nothing for {release}; ExtraRepositories= in "
            "kheadersd.conf can name an archive of old packages",
        )

    def _archived(self, base: str, release: Release) -> list[PacmanPackage]:
        """The packages that there could be in the archives of the configuration."""
        version = _version_of(release, base)
        machine = os.uname().machine
        if version is None:
            return []
        return [
            PacmanPackage(
                name := f"{base}-headers",
                version,
                "",
                f"{address.rstrip('/')}/{name}-{version}-{machine}{SUFFIXES[0]}",
            )
            for address in self._extra()
        ]

    async def _download(self, packages: Sequence[PacmanPackage], scratch: Path) -> PacmanPackage:
        """Download the first of some packages that there is; pacman verifies it."""
        failure: Exception | None = None
        for package in packages:
            if package.address:
                words = ["--upgrade", "--downloadonly", "--", package.address]
            else:
                await self._check_size(package, scratch)
                words = ["--sync", "--downloadonly", "--", f"{package.repository}/{package.name}"]
            async with self._running:
                done = await self._pacman(
                    scratch, "-dd", *words, seconds=DOWNLOAD_SECONDS, max_file=MAX_DOWNLOAD, as_root=True
                )
            if done.status == 0:
                return package
            failure = _failure(package, done)
            if not isinstance(failure, NotFound):
                break
        assert failure is not None
        raise failure

    async def _check_size(self, package: PacmanPackage, scratch: Path) -> None:
        words = ["--sync", "-dd", "--print", "--print-format=%n %v %s", "--"]
        async with self._running:
            done = await self._pacman(scratch, *words, f"{package.repository}/{package.name}")
        match = re.search(r"^(\S{1,128}) (\S{1,128}) ([0-9]{1,15})$", done.stdout, re.MULTILINE)
        if match is None or match[1] != package.name or match[2] != package.version:
            raise NotFound(
                Reason.UNREADABLE, f"pacman has {package}, and does not say its size: {_told(done)}"
            )
        self._work.check_size(str(package), int(match[3]))

    async def _pacman(
        self,
        scratch: Path,
        *words: str,
        seconds: float = QUERY_SECONDS,
        max_file: int = MAX_DOWNLOAD,
        as_root: bool = False,
    ) -> Finished:
        configuration, keyring = scratch / "pacman.conf", scratch / "keyring"
        await in_thread(self._configure, configuration, keyring)
        command = [
            *(("fakeroot", "--") if as_root and os.geteuid() else ()),
            *("pacman", f"--config={configuration}", f"--dbpath={self._database}"),
            *(f"--cachedir={scratch}/packages", f"--gpgdir={keyring}"),
            *(f"--hookdir={scratch / 'tmp'}", "--logfile=/dev/null"),
            *("--noconfirm", "--noprogressbar", "--color=never"),
        ]
        return await self._work.run([*command, *words], scratch, seconds=seconds, max_file=max_file)

    def _configure(self, configuration: Path, keyring: Path) -> None:
        with explained("remove pacman's lock", self._work.directory):
            # Of one that was killed: there is only one at a time.
            (self._database / "db.lck").unlink(missing_ok=True)
        if keyring.exists():
            return
        text = pacman_configuration(self._host)
        with explained("write a configuration for pacman", self._work.directory):
            configuration.write_text(text, encoding="utf-8")
            copy_keyring(self._host, keyring)

    def _explained(self, missing: NotFound, complaint: str) -> NotFound:
        if not complaint:
            return missing
        told = f"{missing.message}; it could not fetch all lists: {complaint}"
        return NotFound(Reason.UNREADABLE, told)


def _flavour(release: Release) -> str:
    """What follows the last dash of a release, if that is a word."""
    last = release.rpartition("-")[2]
    return last if _FLAVOUR.fullmatch(last) and "-" in release else ""


def _parts(text: str) -> list[str]:
    """The parts of a version or a release; a kernel says "6.9.0" where its package says "6.9"."""
    parts = re.split(r"[.-]", text)
    if len(parts) > 2 and not parts[2].isdecimal():
        parts.insert(2, "0")
    return parts


def _without_flavour(release: Release, base: str) -> str:
    """A release without what follows its version: what the base has behind "linux", or a last word."""
    without = release.removesuffix(base.removeprefix("linux"))
    if without != release:
        return without
    flavour = _flavour(release)
    return release.removesuffix(f"-{flavour}") if flavour else release


def _is_version_of(version: str, release: Release, base: str) -> bool:
    """Whether a package with this version has the headers of a release.

    The release is the version with dashes for some dots, and the kernel's flavour behind it: 6.9.1.arch1-1 is
    of 6.9.1-arch1-1, and 6.6.32-1 of 6.6.32-1-lts. What the package really has is checked once it is here.
    """
    return _parts(version.rpartition(":")[2]) == _parts(_without_flavour(release, base))


def _version_of(release: Release, base: str) -> str | None:
    """The version of the package for a release, as Arch Linux has it; None if it cannot be one."""
    number, _, build = _without_flavour(release, base).rpartition("-")
    upstream, dash, patch = number.partition("-")
    if dash:
        # Of a first release the sublevel is in no package's version.
        upstream = re.sub(r"^([0-9]+\.[0-9]+)\.0$", r"\1", upstream)
        number = f"{upstream}.{patch}"
    version = f"{number}-{build}"
    return version if _VERSION.fullmatch(version) and build.isdecimal() else None


def _packages(printed: str, name: str) -> list[PacmanPackage]:
    """What ``pacman --sync --info`` prints: a block of fields for each repository that has the package."""
    found: list[PacmanPackage] = []
    for block in printed.split("\n\n"):
        fields = dict(_FIELD.findall(block))
        repository, version = fields.get("Repository", ""), fields.get("Version", "")
        if (
            fields.get("Name") == name
            and _REPOSITORY.fullmatch(repository)
            and _VERSION.fullmatch(version)
            and len(found) < 16
        ):
            found.append(PacmanPackage(name, version, repository))
    return found


def _told(done: Finished) -> str:
    """What pacman complained about; "" if it has not, and ended well."""
    told = summary(done.stdout + "\n" + done.stderr, lambda line: _COMPLAINT.search(line) is not None)
    if told or done.status == 0:
        return told
    return summary(done.stderr) or f"it ended with status {done.status}"


def _failure(package: PacmanPackage, done: Finished) -> Exception:
    """What a failed download means."""
    printed = f"{done.stdout}\n{done.stderr}"
    if failure := disk_failure(f"{package} cannot be downloaded by pacman", printed):
        return failure
    told = _told(done)
    if _UNVERIFIED.search(printed):
        return Corrupt(f"pacman refused {package}: {told}")
    reason = Reason.MISSING if _MISSING.search(printed) else Reason.UNREADABLE
    return NotFound(reason, f"{package} cannot be downloaded by pacman: {told}")


def _archive(package: PacmanPackage, release: Release, directory: Path) -> Archive:
    """Open what was downloaded. Blocks for some 20 ms."""
    file = open_package(directory, SUFFIXES, "pacman", str(package))
    machine = _LEVEL.sub("", file.label.partition(".pkg.tar.")[0].rpartition("-")[2])
    place = place_below(f"usr/lib/modules/{release}/build", of_machine(machine))
    data = functools.partial(open_part, file, 0, file.size)
    layer = Layer(file.label, functools.partial(chunks, data, file.label), place)
    return Archive(digest_of([file.sha256()]), (layer,), str(package))
