"""The source ``registry`` with a real registry and a real skopeo: what is fetched, and what is not."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Corrupt, NoSpace, ReleaseMismatch
from kheadersd.formats import oci
from kheadersd.repository import parse_repository
from kheadersd.sources.source import NotFound, Reason
from tests.real.registry.conftest import ARCHITECTURE, Node
from tests.support.archives import make_kheaders
from tests.support.extracting import extract_archive
from tests.support.hosts import OTHER, RELEASE
from tests.support.oci_registry import ANYTHING, SigningKey, credentials, skopeo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow


async def test_signed_headers(node: Node, key: SigningKey, tmp_path: Path) -> None:
    digest = await node.push_signed(key.private)
    node.containers.trust_key(key)
    before = len(node.registry.requests())
    archive = await node.find()
    requests = node.registry.requests()[before:]
    assert node.left() == []
    assert archive.origin == f"{node.repository.name}@{digest}"
    target = tmp_path / "tree"
    target.mkdir()
    extract_archive(target, archive)
    assert (target / "include/linux/kconfig.h").exists()
    assert "pusher" not in json.dumps(requests)
    assert len(requests) <= 6, requests


@pytest.mark.parametrize("signed", ["not at all", "by another key", "as another repository"])
async def test_a_signature_that_the_policy_does_not_accept(
    node: Node, key: SigningKey, other_key: SigningKey, signed: str
) -> None:
    if signed == "by another key":
        await node.push_signed(other_key.private)
    elif signed == "as another repository":
        digest = await node.push_signed(key.private)
        name = node.repository.path
        moved = node.registry.repository(name + "-moved")
        node.repository = moved
        await node.push()
        signatures = f"{{}}@{digest.replace(':', '=')}"
        shutil.copytree(
            node.containers.lookaside / signatures.format(name),
            node.containers.lookaside / signatures.format(moved.path),
        )
        node.configure()
    else:
        await node.push()
    node.containers.trust_key(key)
    error = await node.refused()
    assert isinstance(error, Corrupt)
    assert "not signed as containers-policy.json(5) demands" in error.message


async def test_a_policy_that_accepts_anything_is_none(node: Node) -> None:
    await node.push()
    before = len(node.registry.requests())
    node.containers.trust(ANYTHING)
    error = await node.refused()
    assert isinstance(error, NotFound)
    assert "RegistryUnsigned=yes" in error.message
    assert len(node.registry.requests()) == before
    node.configure(accepts_unsigned=True)
    assert (await node.find()).digest


async def test_a_policy_that_rejects(node: Node) -> None:
    node.containers.trust({"type": "reject"})
    node.configure(accepts_unsigned=True)
    assert "accepts nothing" in (await node.refused()).message


async def test_a_pinned_digest_needs_no_signature(node: Node) -> None:
    digest = await node.push()
    await node.push(OTHER, tag=oci.tag_of(RELEASE, ARCHITECTURE))  # the tag is moved, and not looked at
    node.configure(node.registry.repository(node.repository.path, digest))
    assert (await node.find()).origin.endswith(digest)
    error = await node.refused(OTHER)
    assert isinstance(error, NotFound)
    assert error.reason is Reason.OTHER_RELEASE


async def test_a_tag_that_was_moved_to_another_kernels_headers(node: Node, key: SigningKey) -> None:
    await node.push_signed(key.private, OTHER, tag=oci.tag_of(RELEASE, ARCHITECTURE))
    node.containers.trust_key(key)
    error = await node.refused()
    assert isinstance(error, ReleaseMismatch)
    assert OTHER in error.message


async def test_another_build_of_the_running_kernel(node: Node) -> None:
    node.configure(accepts_unsigned=True)
    node.source._host.build_id = "aa" * 20
    await node.push(build_id="bb" * 20)
    assert isinstance(await node.refused(), ReleaseMismatch)
    await node.push(build_id="aa" * 20)
    assert (await node.find()).build_id == "aa" * 20


async def test_what_no_registry_has(node: Node) -> None:
    node.configure(accepts_unsigned=True)
    error = await node.refused()
    assert isinstance(error, NotFound)
    assert error.reason is Reason.MISSING
    assert f"{node.repository.name}:{RELEASE}-{ARCHITECTURE}" in error.message


async def test_the_next_registry_is_asked(node: Node) -> None:
    await node.push()
    gone = node.registry.repository("not/there")
    node.configure(gone, node.repository, accepts_unsigned=True)
    assert node.repository.name in (await node.find()).origin


async def test_without_credentials_and_with_wrong_ones(node: Node, tmp_path: Path) -> None:
    await node.push()
    node.configure(accepts_unsigned=True)
    wrong = credentials(tmp_path / "wrong.json", "localhost:1", "fetcher")
    for file in (tmp_path / "none.json", wrong):
        node.source._given = skopeo(node.containers, file)
        error = await node.refused()
        assert isinstance(error, NotFound)
        assert "credentials" in error.message


async def test_an_authority_that_is_not_known(node: Node) -> None:
    await node.push()
    node.configure(accepts_unsigned=True)
    shutil.rmtree(node.containers.path / "certs.d")
    error = await node.refused()
    assert isinstance(error, NotFound)
    assert "certificate" in error.message


async def test_damage_in_the_registry(node: Node) -> None:
    archive = make_kheaders(RELEASE)
    digest = await node.push(archive=archive)
    layer = oci.parse_manifest(node.registry.blob_file(digest[7:]).read_bytes(), "").layer.digest
    blob = node.registry.blob_file(layer)
    blob.write_bytes(blob.read_bytes()[:-8] + b"\0" * 8)
    node.configure(accepts_unsigned=True)
    try:
        assert isinstance(await node.refused(), Corrupt)
    finally:
        blob.write_bytes(archive)  # other tests have the same blob


async def test_a_registry_that_is_not_there(node: Node) -> None:
    node.configure(parse_repository("localhost:1/kernels"), accepts_unsigned=True)
    node.containers.trust_all()
    error = await node.refused()
    assert isinstance(error, NotFound)
    assert error.reason is Reason.UNREADABLE
    assert "refused" in error.message


@pytest.fixture
def small_disk(node: Node) -> Iterator[None]:
    node.work.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", node.work], check=True)
    yield
    subprocess.run(["umount", node.work], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: for a file system of its own")
@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("is_foreseen", [True, False])
async def test_no_room(node: Node, monkeypatch: pytest.MonkeyPatch, is_foreseen: bool) -> None:
    if not is_foreseen:
        monkeypatch.setattr("kheadersd.sources.package_work.free_bytes", lambda _: 1 << 30)
    await node.push(archive=make_kheaders(RELEASE, {"include/big.h": random.Random(1).randbytes(1 << 16)}))
    node.configure(accepts_unsigned=True)
    assert isinstance(await node.refused(), NoSpace)


async def test_a_cancelled_fetch_leaves_nothing(node: Node) -> None:
    await node.push()
    node.configure(accepts_unsigned=True)
    fetching = asyncio.create_task(node.find())
    await asyncio.sleep(0)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert node.left() == []


async def test_a_release_that_no_tag_can_have(node: Node) -> None:
    release = "6.1.0+~ünïcode"
    await node.push(release)
    node.configure(accepts_unsigned=True)
    assert (await node.find(release)).digest
