"""Artifacts of files that were made from headers, which can say anything of themselves."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

from kheadersd.cli.artifact import write_file_layout
from kheadersd.cli.signing import signing_options
from kheadersd.cli.upload import send
from kheadersd.formats import oci
from tests.support.hosts import RELEASE

if TYPE_CHECKING:
    from pathlib import Path

    from kheadersd.repository import Repository
    from kheadersd.sources.skopeo import Skopeo
    from tests.support.oci_registry import SigningKey, SigstoreKey

KEY = "ab" * 32
DATA = b"CPCH" + random.Random(1).randbytes(1 << 16)


def layout(directory: Path, data: bytes = DATA, annotations: dict[str, str] | None = None) -> oci.Manifest:
    """Write an artifact; ``annotations`` replace what it says of itself."""
    said = {oci.RELEASE: RELEASE, oci.KEY: KEY}
    manifest = write_file_layout(oci.PCH, said, data, directory)
    if annotations:
        manifest = dataclasses.replace(manifest, annotations={**manifest.annotations, **annotations})
        for name, text in oci.layout(manifest.encode()).items():
            (directory / name).write_bytes(text)
    return manifest


@dataclasses.dataclass
class Pushing:
    """What pushes, and where to; ``directory`` is made."""

    client: Skopeo
    repository: Repository
    directory: Path


async def push_file(
    pushing: Pushing,
    key: SigningKey | SigstoreKey | None,
    data: bytes,
    annotations: dict[str, str],
    *,
    tag: str,
) -> str:
    """Push a file, signed by a key; the digest of its manifest."""
    directory = pushing.directory
    directory.mkdir()
    said = annotations if oci.KEY in annotations else {oci.KEY: tag.rpartition("-")[2], **annotations}
    manifest = layout(directory / "artifact", data, said)
    keyring = directory / "keyring"
    keyring.mkdir(mode=0o700)
    async with signing_options(key.private if key else None, keyring) as signing:
        pushed = await send(
            pushing.client, directory / "artifact", manifest, pushing.repository, tag, signing
        )
    return pushed.digest
