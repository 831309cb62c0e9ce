# SPDX-License-Identifier: LGPL-2.1-or-later
"""Repositories of OCI registries: their names, which are checked as input."""

from __future__ import annotations

import dataclasses
import re

from .errors import InvalidArgs
from .system.printable import quoted

MAX_NAME = 255
"""Characters of a repository's name with its registry, as the distribution specification recommends."""

DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
"""The digest of a blob or a manifest."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# To the tools of containers, a first component without a dot and a port is a name on Docker Hub.
_HOST = rf"(?:localhost|{_LABEL}(?=:)|{_LABEL}(?:\.{_LABEL}){{1,16}})"
# The distribution specification, "Pulling manifests".
_COMPONENT = r"[a-z0-9]{1,100}(?:(?:\.|__?|-{1,8})[a-z0-9]{1,100}){0,16}"
_NAME = re.compile(rf"({_HOST}(?::[0-9]{{1,5}})?)/({_COMPONENT}(?:/{_COMPONENT}){{0,15}})", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class Repository:
    """A repository of a registry, as in "registry.example.org/kernels/headers".

    Attributes:
        registry: host and port.
        digest: "sha256:…" of the one manifest that is taken from it; "" if tags are looked up.
    """

    registry: str
    path: str
    digest: str = ""

    @property
    def name(self) -> str:
        """The registry and the path."""
        return f"{self.registry}/{self.path}"

    def __str__(self) -> str:
        return f"{self.name}@{self.digest}" if self.digest else self.name


def parse_repository(text: str) -> Repository:
    """Check the name of a repository, with or without a digest.

    A name on Docker Hub is completed as the tools of containers do it (github.com/distribution/reference,
    normalize.go): containers-policy.json(5) is looked up by the complete one.

    Raises:
        InvalidArgs: it is none: it has a tag or no registry, for example.
    """
    name, at, digest = text.partition("@")
    match = _NAME.fullmatch(name) if len(name) <= MAX_NAME else None
    if match is None:
        raise InvalidArgs(
            f"{quoted(name, 80)} is no repository: it is REGISTRY/REPOSITORY without a tag, as in "
            "registry.example.org/kernels"
        )
    if at and not DIGEST.fullmatch(digest):
        raise InvalidArgs(f"{quoted(digest, 80)} is no digest: it is sha256: and 64 hex digits")
    registry, path = match.groups()
    if registry in ("docker.io", "index.docker.io"):
        registry, path = "docker.io", path if "/" in path else f"library/{path}"
    return Repository(registry, path, digest)
