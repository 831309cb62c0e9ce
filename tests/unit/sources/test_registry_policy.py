"""What a containers-policy.json(5) demands, read as skopeo reads it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kheadersd.repository import parse_repository
from kheadersd.sources.registry_policy import Trust, policy_of_key, trust_in

DIGEST = "sha256:" + "ab" * 32
REPOSITORY = parse_repository("registry.example.org:5000/kernels/headers")
ANYTHING, SIGNED, REJECT = {"type": "insecureAcceptAnything"}, {"type": "signedBy"}, {"type": "reject"}


def policy(default: list[Any], **scopes: list[Any]) -> bytes:
    return json.dumps({"default": default, "transports": {"docker": scopes}}).encode()


def trust(data: bytes) -> Trust:
    return trust_in(data, REPOSITORY, DIGEST)


@pytest.mark.parametrize(
    ("requirements", "expected"),
    [
        ([ANYTHING], Trust.ANYTHING),
        ([ANYTHING, ANYTHING], Trust.ANYTHING),
        ([SIGNED], Trust.SIGNED),
        ([ANYTHING, SIGNED], Trust.SIGNED),
        ([{"type": "sigstoreSigned"}], Trust.SIGNED),
        ([REJECT], Trust.NOTHING),
        ([SIGNED, REJECT], Trust.NOTHING),
    ],
)
def test_all_requirements_count(requirements: list[Any], expected: Trust) -> None:
    assert trust(policy(requirements)) is expected


@pytest.mark.parametrize(
    "scope",
    [
        f"registry.example.org:5000/kernels/headers@{DIGEST}",
        "registry.example.org:5000/kernels/headers",
        "registry.example.org:5000/kernels",
        "registry.example.org:5000",
        "*.example.org",
        "*.org",
        "",
    ],
)
def test_scopes(scope: str) -> None:
    assert trust(policy([ANYTHING], **{scope: [SIGNED]})) is Trust.SIGNED
    assert trust(policy([SIGNED], **{scope: [ANYTHING]})) is Trust.ANYTHING


@pytest.mark.parametrize(
    "scope",
    [
        "registry.example.org/kernels/headers",
        "registry.example.org:5000/kernels/headers:latest",
        "registry.example.org:5000/kernels/head",
        "*.registry.example.org",
        "example.org",
        "kernels/headers",
    ],
)
def test_other_scopes(scope: str) -> None:
    assert trust(policy([ANYTHING], **{scope: [SIGNED]})) is Trust.ANYTHING


def test_the_narrowest_scope_counts() -> None:
    name = "registry.example.org:5000"
    assert trust(policy([REJECT], **{name: [SIGNED], f"{name}/kernels": [ANYTHING]})) is Trust.ANYTHING


def test_other_transports_do_not_count() -> None:
    data = {"default": [ANYTHING], "transports": {"atomic": {"": [SIGNED]}}}
    assert trust(json.dumps(data).encode()) is Trust.ANYTHING


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"[]",
            b"{}",
            b"\xff",
            b"[" * 100_000,
            b'{"default":[]}',
            b'{"default":{}}',
            b'{"default":[1]}',
        ),
        b'{"default":[{"type":1}]}',
        b'{"default":[{"type":"signedBy"}],"default":[{"type":"insecureAcceptAnything"}]}',
        b'{"default":[{"type":"signedBy"}],"transports":[]}',
        b'{"default":[{"type":"signedBy"}],"transports":{"docker":[]}}',
    ],
    ids=lambda data: f"{len(data)} {data[:40]!r}",
)
def test_what_is_no_policy(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        trust(data)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (b"\x98\x33\x04", "signedBy"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "signedBy"),
        (b"-----BEGIN PUBLIC KEY-----\n", "sigstoreSigned"),
    ],
)
def test_the_policy_of_a_key(key: bytes, kind: str) -> None:
    made = policy_of_key(REPOSITORY, key)
    values = json.loads(made)
    assert values["default"] == [{"type": "reject"}]
    ((requirement,),) = values["transports"]["docker"].values()
    assert requirement["type"] == kind
    assert base64.b64decode(requirement["keyData"]) == key
    assert trust(made) is Trust.SIGNED
    assert trust_in(made, parse_repository("registry.example.org/other"), DIGEST) is Trust.NOTHING
