"""Artifacts of registries: tags, and manifests from outside."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.errors import Corrupt, InvalidArgs
from kheadersd.formats import oci
from kheadersd.release import Release, parse_release

LAYER = oci.Descriptor(next(iter(oci.HEADERS.layer_types)), "ab" * 32, 4_000_000)
MANIFEST = oci.Manifest(
    oci.config(),
    LAYER,
    {oci.RELEASE: "6.1.0-9-test", oci.ARCHITECTURE: "x86", oci.CONTENT: "cd" * 32, oci.BUILD_ID: "ef" * 20},
)
VALUES = json.loads(MANIFEST.encode())

# The distribution specification, "Pulling manifests".
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)


def is_release(text: str) -> bool:
    try:
        parse_release(text)
    except InvalidArgs:
        return False
    return True


releases = st.one_of(
    st.text(min_size=1, max_size=64),
    st.text("_.-+~a0", min_size=1, max_size=64),
    st.from_regex(r"_\.[A-Z2-7]{1,20}", fullmatch=True),
).filter(is_release)


@given(releases, st.sampled_from(["x86", "arm64", "loongarch"]))
def test_every_release_has_a_tag_of_its_own(release: str, architecture: str) -> None:
    tag = oci.tag_of(Release(release), architecture)
    assert TAG.fullmatch(tag)
    assert oci.release_of(tag) == (release, architecture)


@given(st.text("_.-ABC234abc=", max_size=40).map(lambda text: text + "-x86"))
def test_a_tag_is_of_one_release_or_of_none(tag: str) -> None:
    try:
        release, architecture = oci.release_of(tag)
    except InvalidArgs:
        return
    assert oci.tag_of(release, architecture) == tag


def test_the_usual_tags() -> None:
    assert oci.tag_of(Release("6.1.0-56-amd64"), "x86") == "6.1.0-56-amd64-x86"
    assert oci.tag_of(Release("5.14.0-1.el9.x86_64"), "x86") == "5.14.0-1.el9.x86_64-x86"
    assert oci.tag_of(Release("6.12.0-rc1+"), "x86") == "_.GYXDCMROGAWXEYZRFM-x86"


def test_a_manifest_comes_back() -> None:
    found = oci.parse_manifest(MANIFEST.encode(), "it")
    assert found == MANIFEST
    assert (found.compression, found.content, found.build_id) == ("xz", "cd" * 32, "ef" * 20)


def changed(*path: Any, to: Any) -> bytes:
    values = copy.deepcopy(VALUES)
    place = values
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = to
    return json.dumps(values).encode()


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"",
            b"{",
            b"[]",
            b"null",
            b"\xff",
            b"[" * 50_000,
            b"9" * 5000,
            b'{"a":NaN}',
            b'"' + b"x" * 70_000 + b'"',
        ),
        MANIFEST.encode().replace(b'"schemaVersion":2', b'"schemaVersion":2,"schemaVersion":2'),
        changed("schemaVersion", to=1),
        changed("schemaVersion", to=2.0),
        changed("mediaType", to="application/vnd.oci.image.index.v1+json"),
        changed("subject", to={}),
        changed("config", to=None),
        changed("config", "mediaType", to="application/vnd.oci.image.config.v1+json"),
        changed("config", "size", to=1 << 20),
        changed("layers", to=[]),
        changed("layers", to={}),
        changed("layers", to=VALUES["layers"] * 2),
        changed("layers", to=VALUES["layers"] * 10_000),
        changed("layers", 0, "mediaType", to="application/vnd.oci.image.layer.v1.tar+gzip"),
        changed("layers", 0, "mediaType", to=1),
        changed("layers", 0, "digest", to="sha256:" + "AB" * 32),
        changed("layers", 0, "digest", to="sha256:../" + "a" * 61),
        changed("layers", 0, "digest", to="sha512:" + "ab" * 64),
        changed("layers", 0, "size", to=-1),
        changed("layers", 0, "size", to=True),
        changed("layers", 0, "size", to=oci.MAX_LAYER + 1),
        changed("layers", 0, "size", to=10**400),
        changed("layers", 0, "urls", to=["https://example.org/"]),
        changed("layers", 0, "data", to="AA=="),
        changed("annotations", to=[]),
        changed("annotations", "more", to=1),
        changed("annotations", "more", to="x" * 2000),
        changed("annotations", to=VALUES["annotations"] | {str(number): "" for number in range(100)}),
        changed("annotations", oci.RELEASE, to="../../etc"),
        changed("annotations", oci.ARCHITECTURE, to="x86/.."),
        changed("annotations", oci.CONTENT, to=""),
        changed("annotations", oci.BUILD_ID, to="xy"),
    ],
    ids=lambda data: hashlib.sha256(data).hexdigest()[:6],
)
def test_what_is_no_manifest(data: bytes) -> None:
    with pytest.raises(Corrupt):
        oci.parse_manifest(data, "it")


FILE = oci.Manifest(
    oci.config(oci.PCH),
    oci.Descriptor(next(iter(oci.PCH.layer_types)), "ab" * 32, 4_000_000),
    {oci.RELEASE: "6.1.0-9-test", oci.CONTENT: "cd" * 32, oci.KEY: "ef" * 32, oci.BYTES: "16000000"},
)


def test_the_manifest_of_a_file() -> None:
    found = oci.parse_manifest(FILE.encode(), "it", oci.PCH)
    assert found == FILE
    assert (found.compression, found.content, found.file_bytes) == ("zstd", "cd" * 32, 16_000_000)


def test_kinds_are_told_apart() -> None:
    for manifest, kind in ((MANIFEST, oci.PCH), (FILE, oci.HEADERS)):
        with pytest.raises(Corrupt, match="configuration is of type"):
            oci.parse_manifest(manifest.encode(), "it", kind)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (oci.KEY, "EF" * 32),
        (oci.KEY, ""),
        (oci.CONTENT, "../x"),
        (oci.BYTES, "0"),
        (oci.BYTES, "-1"),
        (oci.BYTES, "1e3"),
        (oci.BYTES, "٣"),
        (oci.BYTES, str(oci.MAX_FILE + 1)),
        (oci.BYTES, "9" * 1000),
    ],
)
def test_what_a_file_cannot_be(name: str, value: str) -> None:
    manifest = dataclasses.replace(FILE, annotations={**FILE.annotations, name: value})
    with pytest.raises(Corrupt):
        oci.parse_manifest(manifest.encode(), "it", oci.PCH)


def test_the_tag_of_a_file_is_of_no_release() -> None:
    tag = oci.tag_of_file(oci.PCH, "ef" * 32)
    assert TAG.fullmatch(tag)
    with pytest.raises(InvalidArgs):
        oci.release_of(tag)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*VALUES, "urls"]), inner),
    )
)
def test_anything_else_is_refused(values: Any) -> None:
    with pytest.raises(Corrupt):
        oci.parse_manifest(json.dumps(values).encode(), "it")


def test_a_layout_names_what_is_in_it() -> None:
    files = oci.layout(MANIFEST.encode())
    for name, data in files.items():
        if name.startswith("blobs/"):
            assert name == oci.blob_name(hashlib.sha256(data).hexdigest())
    (manifest,) = json.loads(files["index.json"])["manifests"]
    assert files[oci.blob_name(manifest["digest"].removeprefix("sha256:"))] == MANIFEST.encode()
    assert files[oci.blob_name(oci.config().digest)] == oci.CONFIG
