# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers packages of openSUSE and SLES: kernel-FLAVOUR-devel and kernel-devel, merged.

zypper finds and downloads them; rpmkeys verifies them with the host's keys; rpm2archive makes tar archives of
them. The one has what the build of a kernel generated, the other what all flavours have in common.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..formats.deb import HeldFile
from ..host.architecture import of_machine
from ..sandbox.runners import is_network_confined
from ..system.printable import printable
from ..system.tasks import in_thread
from .package_tree import place_below
from .package_work import PackageWork, UpdateMark, digest_of
from .rpm_repositories import ZYPP_REPOSITORIES
from .rpm_verify import TOOLS, RpmTools
from .source import Archive, NotFound, Reason
from .zypper import Zypper

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from .zypper import SusePackage

# The version and release of the package without its counter of rebuilds, and the flavour
# (rpm/kernel-spec-macros of openSUSE's kernel-source, "kernelrelease" and "source_rel").
_RELEASE = re.compile(r"([0-9][A-Za-z0-9._+~]{0,63}-[0-9][A-Za-z0-9._+~]{0,63})-([a-z0-9][a-z0-9_]{0,31})")
# How the directory of a kernel's objects calls an architecture, where rpm calls it otherwise.
_IN_OBJECTS = {"aarch64": "arm64", "i586": "i386", "i686": "i386"}


class Suse:
    """The package manager of openSUSE and SLES.

    Args:
        host: whose repositories and keys are used.
        work: a directory of the daemon's own, made when first needed; the lists stay in it.
        extra: returns addresses of further repositories; the host's keys have to verify these, too.
    """

    FAMILIES = ("suse", "opensuse", "sles")

    def __init__(self, host: Host, work: Path, extra: Callable[[], Sequence[str]]) -> None:
        self._work = PackageWork(work)
        # Of lists that have no packages that were asked for.
        self._update_mark = UpdateMark(work / "zypper" / "updated", "zypper")
        self._tools = RpmTools(host, self._work)
        self._zypper = Zypper(host, self._work, self._tools, extra)

    @staticmethod
    def missing(host: Host) -> str:
        """What is missing to serve the host with zypper; "" if nothing is."""
        if not host.exists(host.path(ZYPP_REPOSITORIES[0])):
            return f"no {host.path(ZYPP_REPOSITORIES[0])}"
        lacking = [f"no {tool}" for tool in ("zypper", *TOOLS) if shutil.which(tool) is None]
        return ", ".join(lacking) or _unconfined()

    async def offered(self, release: Release) -> str | None:
        """See `PackageManager`; zypper looks into the lists that are here."""
        _check_confined()
        version, flavour = _parts(release)
        await in_thread(self._work.prepare)
        found: list[SusePackage] = []
        with self._work.scratch() as scratch:
            if words := await self._zypper.configure(scratch, fetch=False):
                found = await self._zypper.find(words, _capabilities(version, flavour), scratch)
        chosen = _choose(found, flavour)
        if chosen is None:
            if self._update_mark.is_new():
                raise _not_found(found, version, flavour, "")
            return None
        return ", ".join(map(str, chosen))

    async def fetch(self, release: Release, report: Report) -> Archive:
        """See `PackageManager`. When this returns, the layers hold the unpacked packages open.

        Raises:
            NotFound: there are none, or they cannot be downloaded now.
            Corrupt: one is not signed by one of the host's keys, damaged, or another package.
            NoSpace: the file system of the work directory is full, or would be.
            LimitsExceeded: one has more than 256 MiB, or more than 1 GiB unpacked.
            Timeout: zypper took longer than ten minutes.
            KheadersError: a command cannot be run.
        """
        _check_confined()
        version, flavour = _parts(release)
        await in_thread(self._work.prepare)
        with self._work.scratch() as scratch:
            report("updating", 0.0)
            words = await self._zypper.configure(scratch, fetch=True)
            if not words:
                told = "no repository is enabled that zypper can use without a medium or a plugin"
                raise NotFound(Reason.UNSUPPORTED, told)
            complaint = await self._zypper.refresh(words, scratch)
            found = await self._zypper.find(words, _capabilities(version, flavour), scratch)
            chosen = _choose(found, flavour)
            if chosen is None:
                if not complaint:
                    await in_thread(self._update_mark.note)
                raise _not_found(found, version, flavour, complaint)
            report("downloading", 0.0)
            files = await self._zypper.download(words, chosen, scratch)
            report("downloading", 1.0)
            return await self._archive(chosen, files, version, flavour, scratch)

    async def _archive(
        self,
        packages: Sequence[SusePackage],
        files: Sequence[Path],
        version: str,
        flavour: str,
        scratch: Path,
    ) -> Archive:
        await self._tools.verify(files, (), scratch)
        named = {await self._tools.full_name(file, scratch): file for file in files}
        objects, common = packages
        variant = common.name.removeprefix("kernel-devel")
        sources = f"usr/src/linux-{version}{variant}"
        machine = _IN_OBJECTS.get(objects.architecture, objects.architecture)
        built = f"{sources}-obj/{machine}/{flavour}"
        srcarch = of_machine(objects.architecture)
        places = (
            place_below(built, srcarch, written=False),
            place_below(sources, srcarch, generated=False),
        )
        digests, layers = [], []
        for package, place in zip(packages, places, strict=True):
            file = named.get(package.full_name)
            if file is None:
                told = printable(", ".join(sorted(named)), 200)
                raise Corrupt(
                    f"zypper was to download {package.full_name}, and what it has written is {told}"
                )
            with contextlib.closing(HeldFile(file)) as held:
                digests.append(await in_thread(held.sha256))
            layers.append(await self._tools.layer(file, place, scratch))
        return Archive(digest_of(digests), tuple(layers), ", ".join(map(str, packages)))


def _unconfined() -> str:
    """Why zypper is not run here; "" if it may be."""
    if is_network_confined():
        return ""
    return "no kheaders-fetch.socket, without which zypper could write wherever a repository's lists say"


def _check_confined() -> None:
    """Raises NotFound where the unit is gone in which zypper was chosen."""
    if told := _unconfined():
        raise NotFound(Reason.UNSUPPORTED, told)


def _parts(release: Release) -> tuple[str, str]:
    """The version that a release's packages provide, and the kernel's flavour.

    Raises:
        NotFound: MISSING, no package can be for such a release.
    """
    match = _RELEASE.fullmatch(release)
    if match is None:
        raise NotFound(Reason.MISSING, f"no kernel of openSUSE's is called {release}")
    return match[1], match[2]


def _capabilities(version: str, flavour: str) -> list[str]:
    # kernel-rt-devel and the like need kernel-devel-rt of the same version, most need kernel-devel.
    names = (f"kernel-{flavour}-devel", f"kernel-devel-{flavour}", "kernel-devel")
    return [f"{name} = {version}" for name in names]


def _choose(found: Sequence[SusePackage], flavour: str) -> tuple[SusePackage, SusePackage] | None:
    """The newest package of the objects, and that of the sources; None if one of them is missing."""
    newest: dict[str, SusePackage] = {}
    for package in found:
        newest.setdefault(package.name, package)
    objects = newest.get(f"kernel-{flavour}-devel")
    sources = newest.get(f"kernel-devel-{flavour}") or newest.get("kernel-devel")
    return (objects, sources) if objects is not None and sources is not None else None


def _not_found(found: Sequence[SusePackage], version: str, flavour: str, complaint: str) -> NotFound:
    wanted = (f"kernel-{flavour}-devel", "kernel-devel")
    there = {package.name for package in found}
    lacking = " and none that provides ".join(f"{name} = {version}" for name in wanted if name not in there)
    told = f"zypper finds no package that provides {lacking}"
    if complaint:
        return NotFound(Reason.UNREADABLE, f"{told}, and could not use all repositories: {complaint}")
    advice = "ExtraRepositories= in kheadersd.conf can name an archive of old packages"
    return NotFound(Reason.MISSING, f"{told}; {advice}")
