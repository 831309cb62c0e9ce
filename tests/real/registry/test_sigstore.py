"""Signatures of sigstore's, which skopeo of Debian 13 makes and checks; Debian 12's has them disabled."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Corrupt, KheadersError, ReleaseMismatch
from kheadersd.formats import oci
from kheadersd.sources.package_work import PackageWork
from kheadersd.sources.registry_files import RegistryFiles
from kheadersd.sources.source import NotFound
from tests.real.registry.conftest import ARCHITECTURE, Node
from tests.support.file_artifacts import DATA, KEY, Pushing, push_file
from tests.support.hosts import OTHER, RELEASE
from tests.support.oci_registry import SigstoreKey

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("with_sigstore")]


@pytest.fixture(scope="module")
def with_sigstore() -> None:
    told = subprocess.run(["skopeo", "--help"], capture_output=True, text=True, check=True).stdout
    if "generate-sigstore-key" not in told:
        pytest.skip("this skopeo has no sigstore: it makes no keys")


@pytest.fixture(scope="module")
def sigstore_key(with_sigstore: None, tmp_path_factory: pytest.TempPathFactory) -> SigstoreKey:
    return SigstoreKey(tmp_path_factory.mktemp("sigstore") / "one")


@pytest.fixture(scope="module")
def other_sigstore_key(with_sigstore: None, tmp_path_factory: pytest.TempPathFactory) -> SigstoreKey:
    return SigstoreKey(tmp_path_factory.mktemp("sigstore") / "other")


@pytest.fixture
def trusting(node: Node, sigstore_key: SigstoreKey) -> Node:
    """A node that accepts what the key has signed."""
    node.containers.use_attachments()
    node.containers.trust_sigstore_key(sigstore_key)
    return node


def attached(digest: str) -> str:
    """The tag with the signatures of a manifest."""
    return f"{digest.replace(':', '-')}.sig"


def copy(node: Node, source: str, target: str) -> None:
    """Copy something within the registry, as it is, as what may push there can."""
    certificates = node.containers.path / "certs.d" / node.registry.name
    command = ["skopeo", "--insecure-policy", "copy", "--preserve-digests"]
    command += [f"--authfile={node.pushing.credentials}", f"--registries.d={node.directory}"]
    command += [f"--{side}-cert-dir={certificates}" for side in ("src", "dest")]
    subprocess.run([*command, f"docker://{source}", f"docker://{target}"], check=True, capture_output=True)


async def test_signed_headers(trusting: Node, sigstore_key: SigstoreKey, tmp_path: Path) -> None:
    digest = await trusting.push_signed(sigstore_key.private)
    before = len(trusting.registry.requests())
    assert (await trusting.find()).origin == f"{trusting.repository.name}@{digest}"
    assert trusting.left() == []
    assert len(trusting.registry.requests()) - before <= 12


async def test_unsigned_headers(trusting: Node) -> None:
    await trusting.push()
    await check_refused(trusting)


async def test_headers_that_another_key_signed(trusting: Node, other_sigstore_key: SigstoreKey) -> None:
    await trusting.push_signed(other_sigstore_key.private)
    await check_refused(trusting)


async def test_signatures_that_are_not_looked_for(
    trusting: Node, sigstore_key: SigstoreKey, tmp_path: Path
) -> None:
    await trusting.push_signed(sigstore_key.private)
    (trusting.containers.path / "registries.d/default.yaml").unlink()
    await check_refused(trusting)


async def test_a_signature_of_other_headers(trusting: Node, sigstore_key: SigstoreKey) -> None:
    unsigned = await trusting.push()
    signed = await trusting.push_signed(sigstore_key.private, OTHER)
    name = trusting.repository.name
    copy(trusting, f"{name}:{attached(signed)}", f"{name}:{attached(unsigned)}")
    await check_refused(trusting)
    assert (await trusting.find(OTHER)).digest


async def test_a_signature_of_another_repository(trusting: Node, sigstore_key: SigstoreKey) -> None:
    digest = await trusting.push_signed(sigstore_key.private)
    name = trusting.repository.name
    moved = trusting.registry.repository(f"{trusting.repository.path}-moved")
    for tag in (oci.tag_of(RELEASE, ARCHITECTURE), attached(digest)):
        copy(trusting, f"{name}:{tag}", f"{moved.name}:{tag}")
    trusting.configure(moved)
    await check_refused(trusting)


async def test_a_tag_that_was_moved_to_another_kernels_headers(
    trusting: Node, sigstore_key: SigstoreKey
) -> None:
    await trusting.push_signed(sigstore_key.private, OTHER, tag=oci.tag_of(RELEASE, ARCHITECTURE))
    assert isinstance(await trusting.refused(), ReleaseMismatch)


async def test_a_signature_that_has_no_place(node: Node, sigstore_key: SigstoreKey) -> None:
    with pytest.raises((NotFound, KheadersError)) as caught:
        await node.push_signed(sigstore_key.private)
    assert isinstance(caught.value, NotFound | KheadersError)
    assert "sigstore" in caught.value.message


async def test_a_key_without_its_passphrase(trusting: Node, tmp_path: Path) -> None:
    key = SigstoreKey(tmp_path / "key")
    key.private.with_name("key.private.passphrase").unlink()
    with pytest.raises((NotFound, KheadersError)) as caught:
        await trusting.push_signed(key.private)
    assert isinstance(caught.value, NotFound | KheadersError)
    assert "passphrase" in caught.value.message


async def test_a_wrong_passphrase(trusting: Node, tmp_path: Path) -> None:
    key = SigstoreKey(tmp_path / "key")
    key.private.with_name("key.private.passphrase").write_text("wrong\n")
    with pytest.raises((NotFound, KheadersError)) as caught:
        await trusting.push_signed(key.private)
    assert isinstance(caught.value, NotFound | KheadersError)
    assert "private key" in caught.value.message


@pytest.mark.parametrize("is_accepted", [True, False])
async def test_a_file(
    node: Node, sigstore_key: SigstoreKey, other_sigstore_key: SigstoreKey, is_accepted: bool
) -> None:
    """The key that the configuration names counts, whatever the policy says of headers."""
    node.containers.use_attachments()
    node.containers.trust({"type": "reject"})
    files = RegistryFiles(PackageWork(node.work), node.source._given)
    files.configure([node.repository], (sigstore_key if is_accepted else other_sigstore_key).public)
    pushing = Pushing(node.pushing, node.repository, node.directory / "pushed")
    digest = await push_file(pushing, sigstore_key, DATA, {}, tag=oci.tag_of_file(oci.PCH, KEY))
    out = node.directory / "out"
    with out.open("wb") as file:
        if not is_accepted:
            with pytest.raises(Corrupt, match=r"is not signed as PchKey= demands"):
                await files.fetch(oci.PCH, KEY, file.fileno())
            return
        assert await files.fetch(oci.PCH, KEY, file.fileno()) == f"{node.repository.name}@{digest}"
    assert out.read_bytes() == DATA
    assert node.left() == []


async def check_refused(node: Node) -> None:
    error = await node.refused()
    assert isinstance(error, Corrupt)
    assert "not signed as containers-policy.json(5) demands" in error.message
