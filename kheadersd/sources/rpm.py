# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers packages of Fedora, RHEL and their derivatives: kernel-devel and the like.

dnf finds and downloads the package that provides ``kernel-devel-uname-r = R``; rpmkeys verifies it with the
host's keys; rpm2archive makes a tar archive of it.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..host.architecture import of_machine
from ..system.printable import printable
from ..system.tasks import in_thread
from .dnf import Dnf, find_dnf, is_extra
from .package_tree import place_below
from .package_work import PackageWork, UpdateMark, digest_of, open_package
from .rpm_repositories import REPOSITORIES, key_files, read_repositories, read_variables
from .rpm_verify import TOOLS, RpmTools
from .source import Archive, NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from .dnf import RpmPackage


class Rpm:
    """The package manager of Fedora, RHEL and their derivatives.

    Args:
        host: whose repositories and keys are used.
        work: a directory of the daemon's own, made when first needed; the lists stay in it.
        extra: returns addresses of further repositories; the host's keys have to verify their packages, too.
    """

    FAMILIES = ("fedora", "rhel", "centos", "amzn", "openeuler")

    def __init__(self, host: Host, work: Path, extra: Callable[[], Sequence[str]]) -> None:
        self._host = host
        self._work = PackageWork(work)
        # Of lists that have no package that was asked for.
        self._update_mark = UpdateMark(work / "dnf" / "updated", "dnf")
        self._dnf = Dnf(find_dnf() or "dnf", host, self._work, extra)
        self._tools = RpmTools(host, self._work)

    @staticmethod
    def missing(host: Host) -> str:
        """What is missing to serve the host with rpm; "" if nothing is."""
        if not any(host.exists(host.path(directory)) for directory in REPOSITORIES):
            return f"no {host.path(REPOSITORIES[0])}"
        if find_dnf() is None:
            return "no dnf5 and no dnf"
        return ", ".join(f"no {tool}" for tool in TOOLS if shutil.which(tool) is None)

    async def offered(self, release: Release) -> str | None:
        """See `PackageManager`; dnf looks into the lists that are here."""
        await in_thread(self._work.prepare)
        with self._work.scratch() as scratch:
            package, complaint = await self._dnf.find(release, scratch, fetch=False)
        if package is None and self._update_mark.is_new():
            raise self._not_found(release, complaint)
        return None if package is None else str(package)

    async def fetch(self, release: Release, report: Report) -> Archive:
        """See `PackageManager`. When this returns, the layer holds the unpacked package open.

        Raises:
            NotFound: there is none, or it cannot be downloaded now.
            Corrupt: it is not signed by one of the host's keys, damaged, or another package.
            NoSpace: the file system of the work directory is full, or would be.
            LimitsExceeded: it has more than 256 MiB, or more than 1 GiB unpacked.
            Timeout: dnf took longer than ten minutes.
            KheadersError: a command cannot be run.
        """
        await in_thread(self._work.prepare)
        with self._work.scratch() as scratch:
            report("updating", 0.0)
            package, complaint = await self._dnf.find(release, scratch, fetch=True)
            if package is None:
                if not complaint:
                    await in_thread(self._update_mark.note)
                raise self._not_found(release, complaint)
            self._work.check_size(str(package), package.size)
            report("downloading", 0.0)
            await self._dnf.download(package, scratch)
            report("downloading", 1.0)
            return await self._archive(package, release, scratch)

    async def _archive(self, package: RpmPackage, release: Release, scratch: Path) -> Archive:
        packages = scratch / "packages"
        with open_package(packages, (".rpm",), self._dnf.program, str(package)) as held:
            digest = await in_thread(held.sha256)
            file = packages / held.label
        await self._tools.verify([file], await in_thread(self._keys, package), scratch)
        is_named = await self._tools.full_name(file, scratch)
        if is_named != package.full_name:
            raise Corrupt(
                f"the repository {package.repository} offers {package.full_name}, and what it has there is "
                f"{printable(is_named, 200)}"
            )
        place = place_below(f"usr/src/kernels/{release}", of_machine(package.architecture))
        layer = await self._tools.layer(file, place, scratch)
        return Archive(digest_of([digest]), (layer,), f"{package}.{package.architecture}")

    def _keys(self, package: RpmPackage) -> list[Path]:
        """The files with the keys of a package's repository; of an extra one, those of all repositories."""
        variables = read_variables(self._host, os.uname().machine)
        found = [
            key
            for repository in read_repositories(self._host)
            if is_extra(package.repository) or repository.name == package.repository
            for key in key_files(self._host, repository, variables)
        ]
        return list(dict.fromkeys(found))

    def _not_found(self, release: Release, complaint: str) -> NotFound:
        told = f"{self._dnf.program} finds no package that provides kernel-devel-uname-r = {release}"
        if complaint:
            return NotFound(Reason.UNREADABLE, f"{told}, and could not use all repositories: {complaint}")
        advice = "ExtraRepositories= in kheadersd.conf can name an archive of old packages"
        return NotFound(Reason.MISSING, f"{told}; {advice}")
