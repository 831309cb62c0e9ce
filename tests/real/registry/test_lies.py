"""A registry that lies, stalls or floods: errors with names, and nothing is left."""

from __future__ import annotations

import json
import lzma
import time
from typing import TYPE_CHECKING, Any

import pytest

from kheadersd.errors import Corrupt, KheadersError, Timeout
from kheadersd.formats import oci
from kheadersd.repository import parse_repository
from kheadersd.sources import skopeo as skopeo_module
from kheadersd.sources.registry import RegistrySource
from kheadersd.sources.source import Limits, NotFound
from tests.real.registry.conftest import ARCHITECTURE
from tests.support.archives import make_kheaders
from tests.support.extracting import extract_archive
from tests.support.hosts import RELEASE, ignore, make_host
from tests.support.lying_registry import (
    LyingRegistry,
    artifact,
    endless,
    lying_registry,
    redirect,
    send,
)
from tests.support.oci_registry import Certificates, ContainersDirectory, skopeo

if TYPE_CHECKING:
    import http.server
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

LAYER = make_kheaders(RELEASE)
MANIFEST = artifact(RELEASE, ARCHITECTURE, LAYER)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def registry(certificates: Certificates) -> Iterator[LyingRegistry]:
    with lying_registry(certificates.context()) as registry:
        yield registry


@pytest.fixture
def source(registry: LyingRegistry, certificates: Certificates, tmp_path: Path) -> RegistrySource:
    containers = ContainersDirectory(tmp_path / "containers", registry.name, certificates.authority)
    client = skopeo(containers, tmp_path / "none.json")
    made = RegistrySource(make_host(tmp_path / "host"), tmp_path / "work", client)
    made.configure([parse_repository(f"{registry.name}/kernels")], accepts_unsigned=True)
    return made


async def refused(source: RegistrySource) -> NotFound | KheadersError:
    with pytest.raises((NotFound, KheadersError)) as caught:
        await source.find(RELEASE, ignore)
    work = source.work.directory
    assert not work.exists() or list(work.iterdir()) == []
    assert isinstance(caught.value, NotFound | KheadersError)
    return caught.value


async def test_the_truth(source: RegistrySource, registry: LyingRegistry, tmp_path: Path) -> None:
    registry.serve(MANIFEST, LAYER)
    target = tmp_path / "tree"
    target.mkdir()
    extract_archive(target, await source.find(RELEASE, ignore))
    assert (target / "include/linux/kconfig.h").exists()


@pytest.mark.parametrize(
    "layer", [LAYER[:-1], LAYER[:-1] + b"!", LAYER + b"!"], ids=["short", "other", "long"]
)
async def test_another_layer(source: RegistrySource, registry: LyingRegistry, layer: bytes) -> None:
    registry.serve(MANIFEST, layer)
    assert isinstance(await refused(source), Corrupt)


async def test_a_layer_without_an_end(source: RegistrySource, registry: LyingRegistry) -> None:
    registry.serve(MANIFEST, endless)
    error = await refused(source)
    assert isinstance(error, Corrupt)
    assert "more bytes" in error.message


async def test_a_manifest_of_100_megabytes(source: RegistrySource, registry: LyingRegistry) -> None:
    registry.manifest = b'{"a":"' + b"x" * (100 << 20) + b'"}'
    assert isinstance(await refused(source), Corrupt)


@pytest.mark.parametrize("layers", [0, 2, 300, 10_000])
async def test_a_manifest_of_many_layers(
    source: RegistrySource, registry: LyingRegistry, layers: int
) -> None:
    values = json.loads(MANIFEST.encode())
    values["layers"] *= layers
    registry.manifest = json.dumps(values).encode()
    assert isinstance(await refused(source), Corrupt)
    assert not any("/blobs/" in path for path in registry.requests)


@pytest.mark.parametrize(
    "change",
    [
        {"mediaType": "application/vnd.oci.image.index.v1+json"},
        {"layers": [{"mediaType": "application/x", "digest": "sha256:" + "0" * 64, "size": 1}]},
        {"layers": [json.loads(MANIFEST.encode())["layers"][0] | {"urls": ["http://127.0.0.1:1/"]}]},
        {"layers": [json.loads(MANIFEST.encode())["layers"][0] | {"size": 1 << 40}]},
    ],
    ids=["index", "type", "urls", "size"],
)
async def test_another_manifest(
    source: RegistrySource, registry: LyingRegistry, change: dict[str, Any]
) -> None:
    registry.manifest = json.dumps(json.loads(MANIFEST.encode()) | change).encode()
    assert isinstance(await refused(source), Corrupt)
    assert not any("/blobs/" in path for path in registry.requests)


async def test_no_json(source: RegistrySource, registry: LyingRegistry) -> None:
    registry.manifest = b"\xff\xfe<html>"
    assert isinstance(await refused(source), Corrupt)


async def test_a_registry_that_stalls(
    source: RegistrySource, registry: LyingRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skopeo_module, "COPY_SECONDS", 1.0)

    def stall(handler: http.server.BaseHTTPRequestHandler) -> None:
        registry.closing.wait(60)

    registry.serve(MANIFEST, stall)
    started = time.monotonic()
    error = await refused(source)
    assert isinstance(error, Timeout)
    assert time.monotonic() - started < 10
    assert error.message.startswith(f"{registry.name}/kernels@sha256:")
    assert error.message.endswith("skopeo took longer than 1 s and was stopped")


async def test_a_registry_that_hangs_up(
    source: RegistrySource, registry: LyingRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(skopeo_module, "COPY_SECONDS", 5.0)

    def hang_up(handler: http.server.BaseHTTPRequestHandler) -> None:
        send(handler, LAYER[: len(LAYER) // 2], "application/octet-stream", len(LAYER))
        handler.close_connection = True

    registry.serve(MANIFEST, hang_up)
    await refused(source)


@pytest.mark.parametrize("where", ["elsewhere", "in circles", "to nowhere"])
async def test_redirects(
    source: RegistrySource, registry: LyingRegistry, certificates: Certificates, where: str
) -> None:
    """What another server sends is taken for what it is: it has to have the digest."""
    with lying_registry(certificates.context()) as other:
        other.blobs = {MANIFEST.layer.digest: b"something else"}
        registry.serve(MANIFEST, LAYER)
        path = f"/v2/kernels/blobs/sha256:{MANIFEST.layer.digest}"
        servers = {"elsewhere": other.name, "in circles": registry.name, "to nowhere": "localhost:1"}
        registry.blobs[MANIFEST.layer.digest] = redirect(f"https://{servers[where]}{path}")
        error = await refused(source)
        assert isinstance(error, Corrupt if where == "elsewhere" else NotFound), error
        assert (path in other.requests) == (where == "elsewhere")


async def test_a_registry_that_says_that_a_disk_is_full(
    source: RegistrySource, registry: LyingRegistry
) -> None:
    """It is not this host's, for which no further source would be asked."""

    def full(handler: http.server.BaseHTTPRequestHandler) -> None:
        told = json.dumps({"errors": [{"code": "DENIED", "message": "write a: no space left on device"}]})
        handler.send_response(400)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(told)))
        handler.end_headers()
        handler.wfile.write(told.encode())

    registry.manifest = full
    error = await refused(source)
    assert "no space left on device" in error.message
    assert isinstance(error, NotFound)


async def test_an_archive_bomb(source: RegistrySource, registry: LyingRegistry, tmp_path: Path) -> None:
    bomb = lzma.compress(bytes(64 << 20), preset=1)
    registry.serve(artifact(RELEASE, ARCHITECTURE, bomb), bomb)
    archive = await source.find(RELEASE, ignore)
    target = tmp_path / "tree"
    target.mkdir()
    with pytest.raises(Corrupt):
        extract_archive(target, archive, limits=Limits(max_bytes=1 << 20))
    assert list(target.iterdir()) == []


async def test_headers_of_another_kernel_that_say_otherwise(
    source: RegistrySource, registry: LyingRegistry
) -> None:
    registry.serve(artifact(RELEASE, "other", LAYER), LAYER)
    assert isinstance(await refused(source), KheadersError)
    assert oci.ARCHITECTURE in json.loads(registry.manifest)["annotations"]  # type: ignore[arg-type]
