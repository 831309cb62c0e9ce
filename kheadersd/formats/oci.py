# SPDX-License-Identifier: LGPL-2.1-or-later
"""Artifacts in an OCI registry: their names, their manifests and their layout on the disk.

The format is that of the OCI image specification 1.0, with media types of its own. An artifact has one layer:
headers as a tar archive, compressed with xz or zstd; or one file that was made from them, compressed with
zstd. A manifest comes from a network, so that everything in it is checked: what `parse_manifest` does not
know, it refuses.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from ..errors import Corrupt, InvalidArgs
from ..release import Release, parse_release
from ..repository import DIGEST
from ..system.printable import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
RELEASE = "org.kheaders.release"
ARCHITECTURE = "org.kheaders.architecture"
CONTENT = "org.kheaders.content"
KEY = "org.kheaders.key"
BYTES = "org.kheaders.bytes"
ARCHIVE = "org.kheaders.archive"
BUILD_ID = "org.kheaders.build-id"
SOURCE = "org.kheaders.source"
PROFILE = "org.kheaders.profile"
COMPILER = "org.kheaders.compiler"
"""The annotations of the manifest. `CONTENT` is the sha256 of the layer's content without its compression; of
headers, of an uncompressed tar archive in the form of `cache.tar_writer`: the same headers have the same one,
whatever their layer is. A file that was made from headers is found by its `KEY`, and has so many `BYTES`."""

MAX_MANIFEST = 64 << 10
"""Bytes of a manifest; a real one has 1,000."""

MAX_LAYER = 64 << 20
"""Bytes of a layer; real ones have 4 to 5 MB."""

MAX_FILE = 128 << 20
"""Bytes of a file that was made from headers, without compression; precompiled headers have 6 to 25 MB."""

CONFIG = b"{}"
"""The configuration, which is empty: what is to be known is in the annotations."""

IN_LAYOUT = "headers"
"""The name of the manifest in a layout."""

_MAX_CONFIG = 4 << 10
_MAX_LAYERS = 8
_MAX_ANNOTATION = 1024
_MAX_ANNOTATIONS = 64
_MAX_SIZE = 1 << 53  # of JSON's numbers, exactly

_HEX_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BUILD_ID = re.compile(r"(?:[0-9a-f]{2}){1,64}", re.ASCII)

_PLAIN_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_ENCODED = "_."
"""The beginning of a tag with an encoded release: no release that stays as it is begins so."""
_ARCHITECTURE = re.compile(r"[a-z0-9]{1,16}", re.ASCII)
_SIZE = re.compile(r"[1-9][0-9]{0,11}", re.ASCII)
_MAX_TAG = 128


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What an artifact has.

    Attributes:
        name: in the tags of files.
        config_type: the media type of the configuration, which tells the kind.
        layer_types: the media types of the layer, and how each is compressed.
        required: what annotations have to be, besides the release.
    """

    name: str
    config_type: str
    layer_types: Mapping[str, str]
    required: Mapping[str, re.Pattern[str]]


HEADERS = Kind(
    "headers",
    "application/vnd.kheaders.config.v1+json",
    {
        "application/vnd.kheaders.headers.v1.tar+xz": "xz",
        "application/vnd.kheaders.headers.v1.tar+zstd": "zstd",
    },
    {ARCHITECTURE: _ARCHITECTURE, CONTENT: _HEX_DIGEST},
)
"""The headers of a kernel."""

PCH = Kind(
    "pch",
    "application/vnd.kheaders.pch.config.v1+json",
    {"application/vnd.kheaders.pch.v1+zstd": "zstd"},
    {CONTENT: _HEX_DIGEST, KEY: _HEX_DIGEST, BYTES: _SIZE},
)
"""A precompiled header. Its key is that of `pch.recipe`, of all that it depends on."""

TYPES = Kind(
    "types",
    "application/vnd.kheaders.types.config.v1+json",
    {"application/vnd.kheaders.vmlinux-h.v1+zstd": "zstd"},
    {CONTENT: _HEX_DIGEST, KEY: _HEX_DIGEST, BYTES: _SIZE},
)
"""A vmlinux.h. Its key is the sha256 of the BTF that it was made from."""

_KINDS = (HEADERS, PCH, TYPES)


@dataclasses.dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob.

    Attributes:
        digest: its sha256, 64 hex digits.
        size: in bytes.
    """

    media_type: str
    digest: str
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of an artifact, as it is written in a registry."""

    config: Descriptor
    layer: Descriptor
    annotations: Mapping[str, str]

    @property
    def compression(self) -> str:
        """How the layer is compressed: "xz" or "zstd"."""
        (kind,) = (kind for kind in _KINDS if kind.config_type == self.config.media_type)
        return kind.layer_types[self.layer.media_type]

    @property
    def content(self) -> str:
        """The digest of the headers or the file, 64 hex digits."""
        return self.annotations[CONTENT]

    @property
    def file_bytes(self) -> int:
        """The size of a file without its compression; 0 for headers."""
        return int(self.annotations.get(BYTES, "0"))

    @property
    def build_id(self) -> str:
        """The kernel's build-id in hex, "" if it is not known."""
        return self.annotations.get(BUILD_ID, "")

    def encode(self) -> bytes:
        """The manifest as JSON; equal ones have equal bytes."""
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _described(self.config),
                "layers": [_described(self.layer)],
                "annotations": dict(self.annotations),
            }
        )


def tag_of(release: Release, architecture: str) -> str:
    """The tag of the headers of a kernel: ``RELEASE-ARCHITECTURE``; `release_of` undoes it.

    A release that cannot be in a tag, or begins like an encoded one, becomes "_." and base32 (RFC 4648) of
    its UTF-8, without padding.

    Args:
        architecture: the kernel's own name of it, such as x86 or arm64.
    """
    if not _ARCHITECTURE.fullmatch(architecture):
        raise InvalidArgs(f"{quoted(architecture)} is no architecture")
    plain = _PLAIN_TAG.fullmatch(release) is not None and not release.startswith(_ENCODED)
    return f"{release if plain else _ENCODED + _base32(release)}-{architecture}"


def tag_of_file(kind: Kind, key: str) -> str:
    """The tag of a file that was made from headers, such as ``pch-KEY``; no release has it.

    Args:
        key: 64 hex digits.
    """
    return f"{kind.name}-{key}"


def release_of(tag: str) -> tuple[Release, str]:
    """The release and the architecture for which `tag_of` returns ``tag``.

    Raises:
        InvalidArgs: there are none.
    """
    name, _, architecture = tag.rpartition("-")
    try:
        if name.startswith(_ENCODED):
            encoded = name.removeprefix(_ENCODED)
            name = base64.b32decode(encoded + "=" * (-len(encoded) % 8)).decode()
        release = parse_release(name)
        if tag_of(release, architecture) == tag:
            return release, architecture
    except (binascii.Error, UnicodeDecodeError, InvalidArgs):
        pass
    raise InvalidArgs(f"{quoted(tag[:_MAX_TAG])} is not the tag of a kernel's headers")


def reference_of(manifest: bytes) -> str:
    """What a registry knows a manifest by, "sha256:…"."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def parse_manifest(data: bytes, label: str, kind: Kind = HEADERS) -> Manifest:
    """Read the manifest of an artifact.

    Args:
        label: what messages call it.

    Raises:
        Corrupt: it is larger than `MAX_MANIFEST`, of no artifact of this kind, or has something that is not
            known here: other layers, addresses from where to take a blob, keys that occur twice.
    """
    if len(data) > MAX_MANIFEST:
        raise Corrupt(f"{label} has more than {MAX_MANIFEST} bytes")
    try:
        values = parse_json(data)
        return _manifest(values, kind)
    except (ValueError, RecursionError) as error:
        what = "kernel headers" if kind is HEADERS else f"kind {kind.name}"
        raise Corrupt(f"{label} is no manifest of {what}: {error}") from None


def parse_json(data: bytes) -> Any:
    """JSON in UTF-8, in which no key occurs twice and every number is an integer.

    Raises:
        ValueError: it is something else.
        RecursionError: it is nested too deeply.
    """
    return json.loads(
        data.decode(), object_pairs_hook=_without_repetition, parse_float=_refuse, parse_constant=_refuse
    )


def layout(manifest: bytes) -> dict[str, bytes]:
    """The files of an OCI layout with one manifest, `IN_LAYOUT`, apart from the blob of its layer."""
    digest = hashlib.sha256(manifest).hexdigest()
    index = {
        "schemaVersion": 2,
        "manifests": [
            {
                **_described(Descriptor(MANIFEST_TYPE, digest, len(manifest))),
                "annotations": {"org.opencontainers.image.ref.name": IN_LAYOUT},
            }
        ],
    }
    return {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        blob_name(digest): manifest,
        blob_name(config().digest): CONFIG,
    }


def config(kind: Kind = HEADERS) -> Descriptor:
    """The descriptor of `CONFIG`."""
    return Descriptor(kind.config_type, hashlib.sha256(CONFIG).hexdigest(), len(CONFIG))


def blob_name(digest: str) -> str:
    """The name of a blob in an OCI layout."""
    return f"blobs/sha256/{digest}"


def _manifest(values: Any, kind: Kind) -> Manifest:
    _check_keys(values, {"schemaVersion", "mediaType", "config", "layers", "annotations"})
    if values["schemaVersion"] != 2 or values["mediaType"] != MANIFEST_TYPE:
        raise ValueError(f"it is not of type {MANIFEST_TYPE}")
    layers = values["layers"]
    if not isinstance(layers, list) or len(layers) > _MAX_LAYERS:
        raise ValueError(f"its layers are no list of at most {_MAX_LAYERS}")
    if len(layers) != 1:
        raise ValueError(f"it has {len(layers)} layers, and not one")
    config_blob, layer = _descriptor(values["config"], _MAX_CONFIG), _descriptor(layers[0], MAX_LAYER)
    if config_blob.media_type != kind.config_type:
        raise ValueError(
            f"its configuration is of type {quoted(config_blob.media_type)}, not {kind.config_type}"
        )
    if layer.media_type not in kind.layer_types:
        known = ", ".join(kind.layer_types)
        raise ValueError(f"its layer is of type {quoted(layer.media_type)}, none of {known}")
    manifest = Manifest(config_blob, layer, _annotations(values["annotations"], kind))
    if manifest.file_bytes > MAX_FILE:
        raise ValueError(f"its file has {manifest.file_bytes} bytes, and {MAX_FILE} are accepted")
    return manifest


def _annotations(values: Any, kind: Kind) -> dict[str, str]:
    if not isinstance(values, dict) or len(values) > _MAX_ANNOTATIONS:
        raise ValueError(f"its annotations are no object of at most {_MAX_ANNOTATIONS}")
    for name, value in values.items():
        if not isinstance(value, str) or max(len(name), len(value)) > _MAX_ANNOTATION:
            raise ValueError(
                f"its annotation {quoted(name[:60])} is no text of up to {_MAX_ANNOTATION} characters"
            )
    try:
        parse_release(values.get(RELEASE, ""))
    except InvalidArgs as error:
        raise ValueError(f"its annotation {RELEASE}: {error.message}") from None
    for name, pattern in kind.required.items():
        if not pattern.fullmatch(values.get(name, "")):
            raise ValueError(f"its annotation {name} is missing, or cannot be that")
    if BUILD_ID in values and not _BUILD_ID.fullmatch(values[BUILD_ID]):
        raise ValueError(f"its annotation {BUILD_ID} is no build-id in hex")
    return values


def _descriptor(values: Any, limit: int) -> Descriptor:
    _check_keys(values, {"mediaType", "digest", "size"})
    media_type, digest, size = values["mediaType"], values["digest"], values["size"]
    if not isinstance(media_type, str):
        raise ValueError("it has a blob without a media type")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ValueError("it has a blob without a sha256")
    if type(size) is not int or not 0 <= size < _MAX_SIZE:
        raise ValueError("it has a blob without a size")
    if size > limit:
        raise ValueError(f"it has a blob of {size} bytes, and {limit} are accepted")
    return Descriptor(media_type, digest.removeprefix("sha256:"), size)


def _described(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": f"sha256:{blob.digest}", "size": blob.size}


def _check_keys(values: Any, expected: set[str]) -> None:
    if not isinstance(values, dict):
        raise ValueError("it has something else where an object is expected")
    if different := set(values) ^ expected:
        names = ", ".join(quoted(name[:40]) for name in sorted(different)[:4])
        raise ValueError(f"it lacks, or has besides what is known here, {names}")


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("it has a key twice in one object")
    return values


def _refuse(text: str) -> Any:
    raise ValueError(f"{quoted(text[:40])} is no integer")


def _base32(release: Release) -> str:
    return base64.b32encode(release.encode()).decode("ascii").rstrip("=")


def _json(values: object) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
