"""A registry for the tests of a file, and a host that is configured for it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kheadersd.cli.artifact import Headers, write_layout
from kheadersd.cli.signing import signing_options
from kheadersd.cli.upload import send
from kheadersd.errors import KheadersError
from kheadersd.formats import oci
from kheadersd.host.architecture import of_machine
from kheadersd.repository import Repository
from kheadersd.sources.registry import RegistrySource
from kheadersd.sources.skopeo import Skopeo
from kheadersd.sources.source import NotFound
from tests.support.archives import make_kheaders
from tests.support.gnupg import end_agents
from tests.support.hosts import RELEASE, ignore, make_host
from tests.support.oci_registry import (
    ContainersDirectory,
    Registry,
    SigningKey,
    credentials,
    running_registry,
    skopeo,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheadersd.sources.source import Archive

ARCHITECTURE = of_machine(os.uname().machine)


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with running_registry() as running:
        yield running


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey(tmp_path_factory.mktemp("key") / "one")


@pytest.fixture(scope="session")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey(tmp_path_factory.mktemp("key") / "other")


@dataclasses.dataclass
class Node:
    """A host that fetches from a registry, and one that pushes to it.

    Attributes:
        work: where the source keeps what it fetches.
        repository: one of its own.
    """

    directory: Path
    registry: Registry
    repository: Repository
    containers: ContainersDirectory
    pushing: Skopeo
    source: RegistrySource

    @property
    def work(self) -> Path:
        return self.directory / "work"

    def configure(self, *repositories: Repository, accepts_unsigned: bool = False) -> None:
        self.source.configure(repositories or (self.repository,), accepts_unsigned=accepts_unsigned)

    def left(self) -> list[str]:
        """What a fetch has left on the disk."""
        return [path.name for path in self.work.iterdir()] if self.work.exists() else []

    async def push(
        self,
        release: str = RELEASE,
        *,
        tag: str = "",
        archive: bytes = b"",
        build_id: str = "",
        sign: Sequence[str] = (),
        variables: dict[str, str] | None = None,
    ) -> str:
        """Push an archive as headers of a release; the digest of its manifest."""
        data = archive or make_kheaders(release)
        number = len(list(self.directory.glob("layout-*")))
        origin = self.directory / f"origin-{number}" / "kheaders.tar.xz"
        origin.parent.mkdir()
        origin.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        headers = Headers(release, digest, "sysfs", origin, build_id, ARCHITECTURE)  # type: ignore[arg-type]
        layout = self.directory / f"layout-{number}"
        tag = tag or oci.tag_of(headers.release, ARCHITECTURE)
        manifest = write_layout(headers, "0" * 64, origin, layout)
        pushed = await send(self.pushing, layout, manifest, self.repository, tag, (sign, variables or {}))
        return pushed.digest

    async def push_signed(self, private_key: Path, release: str = RELEASE, *, tag: str = "") -> str:
        """Push headers as PushSigningKey= signs them; the digest of their manifest."""
        keyring = self.directory / "keyring"
        keyring.mkdir(mode=0o700)
        try:
            async with signing_options(private_key, keyring) as (options, variables):
                return await self.push(release, tag=tag, sign=options, variables=dict(variables))
        finally:
            end_agents(keyring)
            shutil.rmtree(keyring)

    async def find(self, release: str = RELEASE) -> Archive:
        return await self.source.find(release, ignore)  # type: ignore[arg-type]

    async def refused(self, release: str = RELEASE) -> NotFound | KheadersError:
        """Why nothing is fetched; nothing is left of the attempt."""
        with pytest.raises((NotFound, KheadersError)) as caught:
            await self.find(release)
        assert self.left() == []
        assert isinstance(caught.value, NotFound | KheadersError)
        return caught.value


@pytest.fixture
def node(registry: Registry, tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    containers = ContainersDirectory(tmp_path / "containers", registry.name, registry.certificates.authority)
    fetching = skopeo(containers, credentials(tmp_path / "fetch.json", registry.name, "fetcher"))
    pushing = skopeo(containers, credentials(tmp_path / "push.json", registry.name, "pusher"))
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    source = RegistrySource(make_host(tmp_path / "host"), tmp_path / "work", fetching)
    made = Node(tmp_path, registry, registry.repository(f"kernels/{name}"), containers, pushing, source)
    made.configure()
    return made
