"""Policies that skopeo and kheadersd read: what skopeo accepts unsigned counts here as "anything"."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from kheadersd.errors import KheadersError
from kheadersd.repository import Repository, parse_repository
from kheadersd.sources.registry_policy import Trust, trust_in
from kheadersd.sources.skopeo import Skopeo
from kheadersd.sources.source import NotFound
from tests.real.registry.conftest import ARCHITECTURE
from tests.support.archives import make_kheaders
from tests.support.hosts import RELEASE
from tests.support.lying_registry import artifact, lying_registry
from tests.support.oci_registry import Certificates, ContainersDirectory, skopeo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

LAYER = make_kheaders(RELEASE)
MANIFEST = artifact(RELEASE, ARCHITECTURE, LAYER)
DIGEST = f"sha256:{hashlib.sha256(MANIFEST.encode()).hexdigest()}"

ANY = '[{"type": "insecureAcceptAnything"}]'
NONE = '[{"type": "reject"}]'


def docker(scopes: str, default: str = NONE) -> str:
    return f'{{"default": {default}, "transports": {{"docker": {scopes}}}}}'


POLICIES = {
    "default": (f'{{"default": {ANY}}}', Trust.ANYTHING),
    "default that rejects": (f'{{"default": {NONE}}}', Trust.NOTHING),
    "repository": (docker(f'{{"REGISTRY/a/b": {ANY}}}'), Trust.ANYTHING),
    "digest before repository": (
        docker(f'{{"REGISTRY/a/b": {ANY}, "REGISTRY/a/b@DIGEST": {NONE}}}'),
        Trust.NOTHING,
    ),
    "tag": (docker(f'{{"REGISTRY/a/b": {ANY}, "REGISTRY/a/b:tag": {NONE}}}'), Trust.ANYTHING),
    "namespace": (docker(f'{{"REGISTRY/a": {ANY}, "REGISTRY": {NONE}}}'), Trust.ANYTHING),
    "part of a name": (docker(f'{{"REGISTRY/a/": {ANY}, "REGISTRY/": {ANY}}}'), Trust.NOTHING),
    "without the port": (docker(f'{{"127.0.0.1": {ANY}}}'), Trust.NOTHING),
    "wildcard": (docker(f'{{"*.0.0.1": {ANY}}}'), Trust.ANYTHING),
    "narrower wildcard": (docker(f'{{"*.1": {ANY}, "*.0.1": {NONE}}}'), Trust.NOTHING),
    "wildcard of all": (docker(f'{{"*": {ANY}}}'), Trust.NOTHING),
    "transport": (docker(f'{{"": {ANY}}}'), Trust.ANYTHING),
    "other transport": (
        f'{{"default": {NONE}, "transports": {{"docker-daemon": {{"": {ANY}}}}}}}',
        Trust.NOTHING,
    ),
    "all requirements": (docker(f'{{"": [{ANY[1:-1]}, {NONE[1:-1]}]}}'), Trust.NOTHING),
    "default twice": (f'{{"default": {NONE}, "default": {ANY}}}', None),
    "scope twice": (docker(f'{{"": {NONE}, "": {ANY}}}'), None),
    "transports twice": (f'{{"default": {ANY}, "transports": {{}}, "transports": {{}}}}', None),
    "no requirement": (docker('{"": []}', ANY), None),
    "more after it": (f'{{"default": {ANY}}}{{}}', None),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, Skopeo]]:
    """A repository, and a host that fetches from it."""
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    with lying_registry(certificates.context()) as registry:
        registry.serve(MANIFEST, LAYER)
        name = f"127.0.0.1:{registry.server_address[1]}"
        directory = tmp_path_factory.mktemp("host")
        containers = ContainersDirectory(directory / "containers", name, certificates.authority)
        yield parse_repository(f"{name}/a/b"), skopeo(containers, directory / "none.json")


@pytest.mark.parametrize(("text", "expected"), POLICIES.values(), ids=POLICIES)
async def test_policies(
    place: tuple[Repository, Skopeo], tmp_path: Path, text: str, expected: Trust | None
) -> None:
    repository, client = place
    policy = text.replace("REGISTRY", repository.registry).replace("DIGEST", DIGEST)
    client.policy.write_text(policy)
    assert read(policy, repository) is expected
    assert await accepts(client, repository, tmp_path) == (expected is Trust.ANYTHING)


@pytest.mark.parametrize("change", [{"Default": []}, {"default": None}, {"other": 1}])
async def test_policies_that_skopeo_refuses(
    place: tuple[Repository, Skopeo], tmp_path: Path, change: dict[str, Any]
) -> None:
    repository, client = place
    values = json.loads(docker(f'{{"": {ANY}}}')) | change
    client.policy.write_text(json.dumps(values))
    assert not await accepts(client, repository, tmp_path)


def read(policy: str, repository: Repository) -> Trust | None:
    try:
        return trust_in(policy.encode(), repository, DIGEST)
    except ValueError:
        return None


async def accepts(client: Skopeo, repository: Repository, directory: Path) -> bool:
    """Whether skopeo fetches what nothing has signed."""
    refusal = None
    try:
        await client.fetch(repository, DIGEST, directory / "artifact", len(LAYER))
    except (NotFound, KheadersError) as error:
        refusal = error
    assert refusal is None or "policy" in refusal.message
    return refusal is None
