# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pushes one artifact to a registry, signed, and tells what a registry has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError
from ..formats import oci
from ..sandbox.child import run
from ..sources.skopeo import Skopeo
from ..sources.source import NotFound, Reason

if TYPE_CHECKING:
    from ..repository import Repository
    from .signing import Signing

CREDENTIALS = Path("/etc/kheadersd/push-auth.json")
"""The file with the credentials for pushing, which only root can read."""

_ANY_POLICY = b'{"default":[{"type":"insecureAcceptAnything"}]}'


@dataclasses.dataclass(frozen=True, slots=True)
class Pushed:
    """What has become of one push.

    Attributes:
        digest: of the manifest that the tag has now, "sha256:…".
        is_new: whether it was pushed by this.
        size: of the layer, in bytes.
        files: what was made from the headers, and pushed with them.
    """

    repository: Repository
    tag: str
    digest: str
    is_new: bool
    size: int
    files: tuple[Pushed, ...] = ()

    @property
    def value(self) -> dict[str, object]:
        """For --json."""
        return {
            "reference": f"{self.repository.name}@{self.digest}",
            "tag": self.tag,
            "pushed": self.is_new,
            "bytes": self.size,
            "files": [one.value for one in self.files],
        }

    def __str__(self) -> str:
        what = "pushed" if self.is_new else "is there already"
        return f"{self.repository.name}@{self.digest} {what}, as {self.tag}"


def pushing_skopeo() -> Skopeo:
    """skopeo with the credentials for pushing.

    Raises:
        KheadersError: it is not installed.
    """
    if not Skopeo.is_installed():
        raise KheadersError("skopeo is not installed, which speaks to registries")
    return Skopeo(run, CREDENTIALS)


async def send(
    skopeo: Skopeo,
    layout: Path,
    manifest: oci.Manifest,
    repository: Repository,
    tag: str,
    signing: Signing,
) -> Pushed:
    """Push an OCI layout.

    What is signed gets its tag when it is: skopeo writes a tag before a signature, and what has a tag is not
    pushed again.

    Args:
        layout: a directory in a private one.
        manifest: the one in it.
        signing: options and variables, as of `signing_options`.

    Raises:
        NotFound, KheadersError: as `Skopeo.push`.
    """
    policy = layout.parent / "policy.json"  # of what this host sends, which it has just made itself
    policy.write_bytes(_ANY_POLICY)
    digest = oci.reference_of(manifest.encode())
    options, _ = signing
    if options:
        await skopeo.push(layout, policy, repository, f"@{digest}", *signing)
    await skopeo.push(layout, policy, repository, f":{tag}")
    return Pushed(repository, tag, digest, is_new=True, size=manifest.layer.size)


async def present(
    skopeo: Skopeo, repository: Repository, tag: str, kind: oci.Kind = oci.HEADERS
) -> tuple[str, oci.Manifest | None] | None:
    """The digest and the manifest that a tag has, None if there is no such tag.

    The manifest is None if it is none of this kind.
    """
    try:
        data = await skopeo.manifest(repository, f":{tag}")
    except NotFound as error:
        if error.reason is Reason.MISSING:
            return None
        raise
    except Corrupt:
        return "another artifact", None
    digest = oci.reference_of(data)
    try:
        return digest, oci.parse_manifest(data, tag, kind)
    except Corrupt:
        return digest, None
