"""Nodes with nothing in common but a registry: one pushes its headers, another fetches and serves them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.archives import make_kheaders
from tests.support.oci_registry import Registry, SigningKey
from tests.support.registry_nodes import Node, configuration, running_node
from tests.support.running import Refused
from tests.support.served_host import RELEASE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: for an /etc of its own"),
]

ARCHIVE = make_kheaders(RELEASE)
DIGEST = hashlib.sha256(ARCHIVE).hexdigest()

MakeNode = Callable[..., Node]


@pytest.fixture
def repository(registry: Registry, request: pytest.FixtureRequest) -> str:
    return f"{registry.name}/nodes/{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


@pytest.fixture
def make_node(registry: Registry, repository: str, tmp_path: Path) -> Iterator[MakeNode]:
    with contextlib.ExitStack() as stack:
        made: list[Node] = []

        def make(*settings: str, key: SigningKey | None = None, trusted: SigningKey | None = None) -> Node:
            directory = tmp_path / f"node{len(made)}"
            text = configuration(repository, *settings, key=key)
            lookaside = tmp_path / "lookaside"
            node = running_node(directory, registry, text, trusted=trusted, lookaside=lookaside)
            made.append(stack.enter_context(node))
            return made[-1]

        yield make


def test_one_pushes_and_the_other_fetches(
    make_node: MakeNode, repository: str, registry: Registry, key: SigningKey
) -> None:
    one, other = make_node(key=key), make_node(trusted=key)
    one.host.show(ARCHIVE)
    pushed = one.do("push", RELEASE, repository)
    assert (pushed["pushed"], pushed["tag"]) == (True, f"{RELEASE}-x86")

    before = len(registry.requests())
    again = one.do("push", RELEASE, repository)
    requests = registry.requests()[before:]
    assert (again["pushed"], again["reference"]) == (False, pushed["reference"])
    assert len(requests) <= 5, requests
    assert {method for method, *_ in requests} <= {"GET", "HEAD"}

    details = other.do("get")
    assert (details["source"], details["digest"]) == ("registry", DIGEST)
    assert details["origin"] == pushed["reference"]
    assert Path(details["path"], "include/linux/kconfig.h").exists()
    status = other.ctl("status").stdout
    assert pushed["reference"] in status
    assert pushed["reference"] in other.ctl("list").stdout
    assert other.do("verify")[0]["intact"]
    # What was fetched is cached, and needs no registry.
    before, counted = len(registry.requests()), other.do("status")["metrics"]["headers"]
    assert other.do("get")["digest"] == DIGEST
    assert len(registry.requests()) == before
    (listed,) = other.do("list")
    assert (listed["origin"], listed["digest"]) == (pushed["reference"], DIGEST)
    metrics = other.do("status")["metrics"]
    assert metrics["headers"]["misses"]["registry"] == counted["misses"]["registry"] == 1
    assert metrics["headers"]["hits"]["registry"] == counted["hits"]["registry"] + 1
    assert (metrics["work"]["registry"]["count"], metrics["work"]["registry"]["failures"]) == (1, 0)


def test_what_cannot_be_signed_is_not_there(
    make_node: MakeNode, repository: str, registry: Registry, key: SigningKey
) -> None:
    """Nor is it taken for something that was pushed when the reason is gone."""
    one, other = make_node(key=key), make_node(trusted=key)
    one.host.show(ARCHIVE)
    places = one.containers.path / "registries.d/default.yaml"
    said = places.read_text()
    staging = {"lookaside": f"file://{one.containers.lookaside}", "lookaside-staging": "file:///proc/nowhere"}
    places.write_text(json.dumps({"docker": {registry.name: staging}}))
    refused = one.ctl("push", RELEASE, repository)
    assert refused.returncode == 1
    assert "cannot be signed: " in refused.stderr
    places.write_text(said)
    assert one.do("push", RELEASE, repository)["pushed"]
    assert other.do("get")["digest"] == DIGEST


def test_headers_of_a_package_or_a_tree_are_the_same_from_every_node(
    make_node: MakeNode, repository: str
) -> None:
    """They have no archive of the kernel's: it is made, and is the same, byte for byte."""
    pushed = []
    for number in range(2):
        node = make_node("RegistryUnsigned=yes")
        node.host.show(ARCHIVE)
        node.do("get")
        node.host.archive.unlink()
        pushed.append(node.do("push", RELEASE, f"{repository}{number}"))
    references = {one["reference"].rpartition("@")[2] for one in pushed}
    assert len(references) == 1
    fetching = make_node("RegistryUnsigned=yes")
    fetching.configure(configuration(f"{repository}0", "RegistryUnsigned=yes"))
    assert fetching.daemon.stop() == 0
    fetching.daemon.start()
    assert fetching.do("get")["origin"] == pushed[0]["reference"]


def test_other_headers_are_not_replaced_unasked(make_node: MakeNode, repository: str) -> None:
    node = make_node()
    node.host.show(ARCHIVE)
    first = node.do("push", RELEASE, repository)
    node.host.show(make_kheaders(RELEASE, {"include/more.h": b""}))
    node.do("get", "--refresh")
    refused = node.ctl("push", RELEASE, repository)
    assert refused.returncode == 1
    assert "has other headers" in refused.stderr
    second = node.do("push", RELEASE, repository, "--replace")
    assert second["pushed"]
    assert second["reference"] != first["reference"]


def test_push_without_the_right_to(
    make_node: MakeNode, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    node = make_node()
    node.host.show(ARCHIVE)
    (node.etc / "kheadersd/push-auth.json").unlink()
    refused = node.ctl("push", RELEASE, repository)
    assert refused.returncode == 1
    assert "credentials" in refused.stderr
    assert not list(temporary.glob("kheadersctl-*"))


def test_who_may_ask_a_registry(make_node: MakeNode, repository: str) -> None:
    node = make_node("RegistryUnsigned=yes")
    refused = node.bus.call("GetHeaders", "sa{sv}", RELEASE, "0", user="nobody")
    assert isinstance(refused, Refused)
    assert "registry: " in refused.message
    assert repository not in refused.message
    missing = node.ctl("get", RELEASE)
    assert missing.returncode == 3
    assert f"there is no {repository}:{RELEASE}-x86" in missing.stderr


def test_only_what_is_new_is_pushed_unasked(make_node: MakeNode, repository: str, registry: Registry) -> None:
    quiet, eager = make_node(), make_node("PushNew=yes")
    for node in (quiet, eager):
        node.host.show(ARCHIVE)
        node.do("get")
    assert quiet.do("push", "--new", "--within", "0") == []
    (pushed,) = eager.do("push", "--new", "--within", "0")
    assert pushed["pushed"]
    before = len(registry.requests())
    assert eager.do("push", "--new", "--within", "0") == []
    assert len(registry.requests()) - before == 2
