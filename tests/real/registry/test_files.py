"""Files that were made from headers, with a real registry and skopeo: what is taken, and what is not."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Corrupt, KheadersError, NoSpace, Timeout
from kheadersd.formats import oci
from kheadersd.repository import parse_repository
from kheadersd.sources import registry_files
from kheadersd.sources.package_work import PackageWork
from kheadersd.sources.registry_files import RegistryFiles
from kheadersd.sources.source import NotFound, Reason
from tests.support.file_artifacts import DATA, KEY, Pushing, layout, push_file
from tests.support.lying_registry import LyingRegistry, endless, lying_registry
from tests.support.oci_registry import Certificates, ContainersDirectory, skopeo

if TYPE_CHECKING:
    import http.server
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.registry.conftest import Node
    from tests.support.oci_registry import SigningKey

pytestmark = pytest.mark.slow


@dataclasses.dataclass
class Files:
    """What a host fetches, and what was written of it."""

    node: Node
    files: RegistryFiles
    out: Path

    async def push(
        self, key: SigningKey | None, data: bytes = DATA, annotations: dict[str, str] | None = None
    ) -> str:
        """Push a file under the tag of `KEY`; the digest of its manifest."""
        pushing = Pushing(self.node.pushing, self.node.repository, self.node.directory / "pushed")
        return await push_file(pushing, key, data, annotations or {}, tag=oci.tag_of_file(oci.PCH, KEY))

    async def fetch(self, key: str = KEY) -> str:
        descriptor = os.open(self.out, os.O_RDWR | os.O_CREAT)
        try:
            return await self.files.fetch(oci.PCH, key, descriptor)
        finally:
            os.close(descriptor)
            assert self.node.left() == []

    async def refused(self) -> NotFound | KheadersError:
        with pytest.raises((NotFound, KheadersError)) as caught:
            await self.fetch()
        assert isinstance(caught.value, NotFound | KheadersError)
        return caught.value


@pytest.fixture
def files(node: Node, key: SigningKey) -> Files:
    node.containers.trust({"type": "reject"})  # what the host's policy says of headers does not matter
    made = RegistryFiles(PackageWork(node.work), node.source._given)
    made.configure([node.repository], key.public)
    return Files(node, made, node.directory / "out")


async def test_what_the_key_has_signed(files: Files, key: SigningKey) -> None:
    digest = await files.push(key)
    before = len(files.node.registry.requests())
    assert await files.fetch() == f"{files.node.repository.name}@{digest}"
    assert files.out.read_bytes() == DATA
    assert len(files.node.registry.requests()) - before <= 6


@pytest.mark.parametrize("signed", ["not at all", "by another key"])
@pytest.mark.parametrize("accepts", ["nothing", "anything"])
async def test_another_signature(files: Files, other_key: SigningKey, signed: str, accepts: str) -> None:
    """Whatever the host's own policy says."""
    if accepts == "anything":
        files.node.containers.trust_all()
    await files.push(other_key if signed == "by another key" else None)
    error = await files.refused()
    assert isinstance(error, Corrupt)
    assert "is not signed as PchKey= demands" in error.message


async def test_what_is_signed_for_another_key(files: Files, key: SigningKey) -> None:
    await files.push(key, annotations={oci.KEY: "cd" * 32})
    error = await files.refused()
    assert isinstance(error, Corrupt)
    assert "is another file" in error.message


async def test_headers_under_the_tag_of_a_file(files: Files) -> None:
    await files.node.push(tag=oci.tag_of_file(oci.PCH, KEY))
    assert isinstance(await files.refused(), Corrupt)


@pytest.mark.parametrize(
    "annotations",
    [
        {oci.CONTENT: "0" * 64},
        {oci.BYTES: str(len(DATA) - 1)},
        {oci.BYTES: str(len(DATA) + 1)},
        {oci.BYTES: "1"},
        {oci.BYTES: str(oci.MAX_FILE + 1)},
        {oci.BYTES: "0"},
    ],
    ids=["digest", "short", "long", "bomb", "large", "empty"],
)
async def test_what_is_not_what_it_says(files: Files, key: SigningKey, annotations: dict[str, str]) -> None:
    await files.push(key, annotations=annotations)
    assert isinstance(await files.refused(), Corrupt)
    assert not files.out.exists() or files.out.stat().st_size <= int(annotations.get(oci.BYTES, len(DATA)))


async def test_damage_in_the_registry(files: Files, key: SigningKey) -> None:
    digest = await files.push(key)
    data = files.node.registry.blob_file(digest[7:]).read_bytes()
    blob = files.node.registry.blob_file(oci.parse_manifest(data, "", oci.PCH).layer.digest)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-8] + b"\0" * 8)
    try:
        assert isinstance(await files.refused(), Corrupt)
    finally:
        blob.write_bytes(whole)  # other tests have the same blob


async def test_what_is_not_there(files: Files) -> None:
    error = await files.refused()
    assert isinstance(error, NotFound)
    assert error.reason is Reason.MISSING
    assert f":{oci.tag_of_file(oci.PCH, KEY)}" in error.message


async def test_the_next_registry_is_asked(files: Files, key: SigningKey) -> None:
    await files.push(key)
    gone = files.node.registry.repository("not/there")
    pinned = dataclasses.replace(files.node.repository, digest="sha256:" + "0" * 64)  # of headers
    files.files.configure([gone, pinned], key.public)
    assert files.node.repository.name in await files.fetch()


async def test_a_registry_that_is_not_there_is_not_asked_again(files: Files, key: SigningKey) -> None:
    files.files.configure([parse_repository("localhost:1/kernels")], key.public)
    error = await files.refused()
    assert isinstance(error, NotFound)
    assert error.reason is Reason.UNREADABLE
    error = await files.refused()
    assert error.message == "localhost:1/kernels could not be reached, and is not asked"
    files.files.configure([files.node.repository], key.public)
    await files.push(key)
    assert await files.fetch()


@pytest.mark.parametrize("content", [None, b"no key"])
async def test_a_public_key_that_is_none(files: Files, key: SigningKey, content: bytes | None) -> None:
    await files.push(key)
    public = files.node.directory / "public"
    if content is not None:
        public.write_bytes(content)
    files.files.configure([files.node.repository], public)
    await files.refused()


async def test_no_room(files: Files, key: SigningKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheadersd.sources.package_work.free_bytes", lambda _: len(DATA))
    await files.push(key)
    assert isinstance(await files.refused(), NoSpace)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def liar(certificates: Certificates) -> Iterator[LyingRegistry]:
    with lying_registry(certificates.context()) as registry:
        yield registry


@pytest.fixture
def lied_to(
    files: Files, liar: LyingRegistry, certificates: Certificates, key: SigningKey, tmp_path: Path
) -> Files:
    """Its signatures are found, as they are on the disk: everything else is the registry's."""
    containers = ContainersDirectory(tmp_path / "others", liar.name, certificates.authority)
    files.files = RegistryFiles(PackageWork(files.node.work), skopeo(containers, tmp_path / "none.json"))
    files.files.configure([parse_repository(f"{liar.name}/kernels")], key.public)
    return files


async def test_a_manifest_of_100_megabytes(lied_to: Files, liar: LyingRegistry) -> None:
    liar.manifest = b'{"a":"' + b"x" * (100 << 20) + b'"}'
    assert isinstance(await lied_to.refused(), Corrupt)


@pytest.mark.parametrize("layers", [0, 2, 10_000])
async def test_a_manifest_of_many_layers(lied_to: Files, liar: LyingRegistry, layers: int) -> None:
    values = json.loads(layout(lied_to.node.directory / "made").encode())
    values["layers"] *= layers
    liar.manifest = json.dumps(values).encode()
    assert isinstance(await lied_to.refused(), Corrupt)
    assert not any("/blobs/" in path for path in liar.requests)


async def test_nothing_is_downloaded_without_a_signature(lied_to: Files, liar: LyingRegistry) -> None:
    liar.serve(layout(lied_to.node.directory / "made"), endless)
    assert isinstance(await lied_to.refused(), Corrupt)
    assert not any("/blobs/" in path for path in liar.requests)


async def test_a_registry_that_stalls(
    lied_to: Files, liar: LyingRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_files, "SECONDS", 1.0)

    def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
        liar.closing.wait(60)

    liar.manifest = stall
    started = time.monotonic()
    other = lied_to.node.repository
    lied_to.files.configure([*lied_to.files._repositories, other], lied_to.files._key)
    assert isinstance(await lied_to.refused(), Timeout)
    assert time.monotonic() - started < 10, "the time is that of all registries"
    error = await lied_to.refused()
    assert f"{liar.name}/kernels could not be reached, and is not asked" in error.message
