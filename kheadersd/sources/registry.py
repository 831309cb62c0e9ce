# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``registry`` source: headers that another host has pushed to an OCI registry.

The manifest is read first, and judged by its size, its release and its blobs. What it names is then copied by
digest, which the host's containers-policy.json(5) has to accept, and checked like any other archive.
"""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError, NoSpace, ReleaseMismatch
from ..formats import oci
from ..formats.deb import HeldFile, open_part
from ..formats.decompress import chunks
from ..host.architecture import of_machine
from ..names import REGISTRY
from ..sandbox.runners import network_runner
from ..system.files import read_file
from ..system.tasks import in_thread
from .package_work import PackageWork
from .registry_policy import MAX_POLICY, Trust, trust_in
from .skopeo import Skopeo
from .source import Archive, Layer, NotFound, Reason, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..formats.oci import Manifest
    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from ..repository import Repository

FETCH_CREDENTIALS = Path("/etc/kheadersd/registry-auth.json")
"""The file with the credentials for fetching, where no unit has them."""

MAX_FETCHES = 4
"""How many run at a time; one takes up to 64 MiB of disk and some 50 MiB of memory."""


class RegistrySource:
    """Headers from the repositories that the configuration names, in this order.

    Attributes:
        work: the directory that is fetched to.

    Args:
        host: the host that is served.
        work: a directory of the daemon's own, made when needed.
        skopeo: how registries are spoken to; by default with this machine's configuration.
    """

    name = REGISTRY

    def __init__(self, host: Host, work: Path, skopeo: Skopeo | None = None) -> None:
        self.work = PackageWork(work)
        self._host = host
        self._given = skopeo
        self._repositories: Sequence[Repository] = ()
        self._accepts_unsigned = False
        self._architecture = of_machine(os.uname().machine)
        self._fetching = asyncio.Semaphore(MAX_FETCHES)

    def configure(self, repositories: Sequence[Repository], *, accepts_unsigned: bool) -> None:
        """Use other repositories from now on.

        Args:
            accepts_unsigned: whether a policy that accepts anything is enough.
        """
        self._repositories = repositories
        self._accepts_unsigned = accepts_unsigned

    @property
    def is_configured(self) -> bool:
        """Whether there is a repository to ask."""
        return bool(self._repositories)

    async def check_ready(self) -> None:
        """Check whether anything could be fetched, before a caller is asked for an authorisation.

        Raises:
            NotFound: no repository is configured, skopeo is missing, or the policy accepts nothing or
                anything of each.
        """
        if not self._repositories:
            raise NotFound(
                Reason.UNSUPPORTED, "no registry is configured, see Registry= in kheadersd.conf(5)"
            )
        skopeo = self._skopeo()
        if not skopeo.is_installed():
            raise NotFound(Reason.UNSUPPORTED, "skopeo is not installed, which speaks to registries")
        whys = [await in_thread(self._why_not_trusted, skopeo, one, one.digest) for one in self._repositories]
        if all(whys):
            raise NotFound(Reason.UNSUPPORTED, "; ".join(whys))

    async def find(self, release: Release, report: Report) -> Archive:
        """Fetch the headers of ``release`` from the first repository that has them.

        When this returns, nothing is left on the disk but what the archive holds open.

        Raises:
            NotFound: no repository has them, can be reached, or is trusted.
            ReleaseMismatch: they are another kernel's, or of another build of the running kernel.
            Corrupt: what came is damaged, not what its digest promises, or not signed.
            NoSpace: there is no room for them.
            Timeout: a registry did not answer.
        """
        await self.check_ready()
        failures: list[NotFound | KheadersError] = []
        for repository in self._repositories:
            try:
                async with self._fetching:
                    return await self._fetch(repository, release, report)
            except NoSpace:
                raise
            except (NotFound, KheadersError) as error:
                failures.append(error)
        raise worst(failures)

    async def _fetch(self, repository: Repository, release: Release, report: Report) -> Archive:
        skopeo = self._skopeo()
        report("looking", 0.0)
        reference = (
            f"@{repository.digest}" if repository.digest else f":{oci.tag_of(release, self._architecture)}"
        )
        data = await skopeo.manifest(repository, reference)
        digest = oci.reference_of(data)
        label = f"{repository.name}@{digest}"
        if repository.digest not in ("", digest):
            raise Corrupt(f"the manifest of {repository} has another digest: {digest}")
        manifest = oci.parse_manifest(data, label)
        self._check_kernel(manifest, release, label, is_pinned=bool(repository.digest))
        if why := await in_thread(self._why_not_trusted, skopeo, repository, digest):
            raise NotFound(Reason.UNSUPPORTED, why)
        report("downloading", 0.0)
        await in_thread(self.work.prepare)
        with self.work.scratch() as scratch:
            self.work.check_size(label, manifest.layer.size)
            target = scratch / "artifact"
            await skopeo.fetch(repository, digest, target, manifest.layer.size)
            return await in_thread(self._archive, manifest, target, label, release)

    def _check_kernel(self, manifest: Manifest, release: Release, label: str, *, is_pinned: bool) -> None:
        """Refuse another kernel's headers before they are fetched.

        Raises:
            NotFound: they are, and the configuration names them by their digest.
            ReleaseMismatch: they are.
        """
        theirs = (manifest.annotations[oci.RELEASE], manifest.annotations[oci.ARCHITECTURE])
        if theirs != (release, self._architecture):
            message = f"{label} is of kernel {' '.join(theirs)}, not of {release} {self._architecture}"
            raise NotFound(Reason.OTHER_RELEASE, message) if is_pinned else ReleaseMismatch(message)
        ours = self._host.build_id if release == self._host.running else ""
        if ours and manifest.build_id not in ("", ours):
            raise ReleaseMismatch(
                f"{label} is of another build of {release}: its build-id is {manifest.build_id}, that of the "
                f"running kernel {ours}"
            )

    def _why_not_trusted(self, skopeo: Skopeo, repository: Repository, digest: str) -> str:
        """Why nothing of a repository is accepted, "" if skopeo decides. Blocks for a millisecond."""
        try:
            trust = trust_in(read_file(skopeo.policy, MAX_POLICY), repository, digest)
        except OSError as error:
            return f"{skopeo.policy} cannot be read: {error.strerror}"
        except ValueError as error:
            return f"{skopeo.policy} is no policy: {error}"
        if trust is Trust.NOTHING:
            return f"{skopeo.policy} accepts nothing from {repository}"
        if trust is Trust.ANYTHING and not repository.digest and not self._accepts_unsigned:
            return (
                f"{skopeo.policy} accepts anything from {repository}; nothing says whose headers they are: "
                "let it demand a signature, name a digest in Registry=, or set RegistryUnsigned=yes"
            )
        return ""

    def _archive(self, manifest: Manifest, directory: Path, label: str, release: Release) -> Archive:
        """Open and check what was fetched. Blocks for some 20 ms."""
        blob, file = manifest.layer, open_layer(manifest, directory, label)
        data = functools.partial(open_part, file, 0, file.size)
        build_id = manifest.build_id if release == self._host.running else ""
        return Archive(
            digest=blob.digest,
            layers=(Layer(label, functools.partial(chunks, data, label, manifest.compression), whole),),
            origin=label,
            build_id=build_id if build_id == self._host.build_id else "",
        )

    def _skopeo(self) -> Skopeo:
        return self._given or fetching_skopeo()


def fetching_skopeo() -> Skopeo:
    """skopeo with this machine's configuration, and the credentials for fetching."""
    return Skopeo(network_runner(), FETCH_CREDENTIALS)


def open_layer(manifest: Manifest, directory: Path, label: str) -> HeldFile:
    """Open the layer of an artifact that was fetched into a directory. Blocks for some 20 ms.

    Args:
        label: what messages call the artifact.

    Raises:
        Corrupt: it is not there, or not what the manifest promises.
    """
    blob = manifest.layer
    try:
        file = HeldFile(directory / blob.digest)
    except OSError as error:
        raise Corrupt(f"{label} was fetched without its layer: {error.strerror}") from error
    if file.size != blob.size or file.sha256() != blob.digest:
        file.close()
        raise Corrupt(f"the layer of {label} is not what the manifest promises")
    return file


def worst(failures: Sequence[NotFound | KheadersError]) -> NotFound | KheadersError:
    """The failure that a caller is told, with all messages: that something is wrong, rather than missing."""
    first = next((error for error in failures if isinstance(error, KheadersError)), failures[0])
    message = "; ".join(error.message for error in failures)
    return NotFound(first.reason, message) if isinstance(first, NotFound) else type(first)(message)
