# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host trusts of a registry, as its containers-policy.json(5) says.

skopeo enforces the policy. It is read here besides, because a policy that accepts anything is no policy: it
is what distributions deliver.
"""

from __future__ import annotations

import base64
import enum
import json
from typing import TYPE_CHECKING, Any

from ..formats.oci import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..repository import Repository

MAX_POLICY = 1 << 20
"""Bytes of a policy."""

MAX_KEY = 64 << 10
"""Bytes of a public key."""

_ANYTHING, _REJECT = "insecureAcceptAnything", "reject"
_SIGSTORE = b"-----BEGIN PUBLIC KEY-----"


class Trust(enum.Enum):
    """What a policy demands of the artifacts of a repository."""

    ANYTHING = "anything"  # nothing
    SIGNED = "signed"  # something that skopeo checks
    NOTHING = "nothing"  # none is accepted


def trust_in(policy: bytes, repository: Repository, digest: str) -> Trust:
    """What a policy demands of one artifact, which is copied by its digest.

    Args:
        digest: "sha256:…" of its manifest.

    Raises:
        ValueError: it is no policy; the message says what is wrong.
    """
    try:
        values = parse_json(policy)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(values, dict) or not isinstance(values.get("transports", {}), dict):
        raise ValueError("it is no object with transports")
    scopes = values.get("transports", {}).get("docker", {})
    if not isinstance(scopes, dict):
        raise ValueError("its docker transport is no object")
    for scope in _scopes(repository, digest):
        if scope in scopes:
            return _trust(scopes[scope])
    return _trust(values.get("default"))


def policy_of_key(repository: Repository, key: bytes) -> bytes:
    """A policy that accepts of one repository what a key has signed, and nothing else.

    Args:
        key: the public key: one of GnuPG's, exported, or one of sigstore's in PEM.
    """
    requirement = {"type": "signedBy", "keyType": "GPGKeys"}
    if key.lstrip().startswith(_SIGSTORE):
        requirement = {"type": "sigstoreSigned"}
    requirement["keyData"] = base64.b64encode(key).decode("ascii")
    scopes = {repository.name: [requirement]}
    return json.dumps({"default": [{"type": _REJECT}], "transports": {"docker": scopes}}).encode()


def _scopes(repository: Repository, digest: str) -> Iterator[str]:
    """The scopes that are looked for, the narrowest first (containers-policy.json(5), "docker:")."""
    yield f"{repository.name}@{digest}"
    name = repository.name
    while name:
        yield name
        name = name.rpartition("/")[0]
    domain = repository.registry.partition(":")[0]
    while "." in domain:
        domain = domain.partition(".")[2]
        yield f"*.{domain}"
    yield ""


def _trust(requirements: Any) -> Trust:
    """What a list of requirements demands, all of which have to be met."""
    if not isinstance(requirements, list) or not requirements:
        raise ValueError("it has something else where a list of requirements is expected")
    kinds = {value.get("type") if isinstance(value, dict) else None for value in requirements}
    if not all(isinstance(kind, str) for kind in kinds):
        raise ValueError("it has a requirement without a type")
    if _REJECT in kinds:
        return Trust.NOTHING
    return Trust.ANYTHING if kinds == {_ANYTHING} else Trust.SIGNED
