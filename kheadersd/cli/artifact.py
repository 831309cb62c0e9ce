# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers as an artifact that can be pushed to a registry: an OCI layout in a private directory."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

import zstandard

from ..errors import Corrupt, KheadersError, ReleaseMismatch
from ..formats import oci
from ..formats.decompress import whole
from ..formats.oci import Descriptor, Manifest
from ..formats.tar import TarReader
from ..names import MODULE, MODULE_FILE, SYSFS
from ..release import Release, parse_release
from ..sources.kernel_archive import MAX_ARCHIVE
from ..sources.module_file import MAX_MODULE, cut_out
from ..system.disk import explained, write_new
from ..system.files import opened, read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import IO

_READ_BYTES = 1 << 16
_LEVEL = 9  # of zstd: 1 s of CPU once, for 5 MB on every host
_MAX_EXPORT = 1 << 31  # bytes
_XZ, _ZSTD = oci.HEADERS.layer_types


@dataclasses.dataclass(frozen=True, slots=True)
class Headers:
    """Headers as they are known to the daemon.

    Attributes:
        digest: of the archive that they were extracted from, 64 hex digits.
        source: the name of their source.
        origin: the file that they were extracted from, for most sources.
        build_id: of the kernel that they were read from, "" if they were not.
        architecture: the kernel's own name of it.
    """

    release: Release
    digest: str
    source: str
    origin: Path
    build_id: str
    architecture: str

    @property
    def annotations(self) -> dict[str, str]:
        """What the manifest says of them, but for their content."""
        of_kernel = self.source in (SYSFS, MODULE, MODULE_FILE)
        found = {
            oci.RELEASE: self.release,
            oci.ARCHITECTURE: self.architecture,
            oci.ARCHIVE: self.digest,
            # One word for one archive: nodes that read it in different ways push the same manifest.
            oci.SOURCE: "kheaders" if of_kernel else self.source,
        }
        return found | ({oci.BUILD_ID: self.build_id} if self.build_id else {})


def save_headers(descriptor: int, path: Path) -> str:
    """Save an export of the daemon.

    Args:
        descriptor: to read it from; it is closed.
        path: of a new file for the archive.

    Returns:
        The digest of the headers, as `oci.CONTENT`.

    Raises:
        Corrupt: it was cut short, because the daemon could not read all of the headers, or does not end.
        NoSpace, DiskError: it cannot be written.
    """
    digest = hashlib.sha256()
    with (
        open(descriptor, "rb", buffering=0) as pipe,
        explained("save the headers", path.parent),
        path.open("xb") as file,
    ):
        pieces = _copied(pipe, file, digest.update)
        for _ in TarReader(pieces, "the export of the headers"):
            pass
        for _ in pieces:
            pass
    return digest.hexdigest()


def write_layout(headers: Headers, content: str, archive: Path, directory: Path) -> Manifest:
    """Write an OCI layout with the headers as the one artifact.

    The layer is the archive as the kernel gave it, if it is still there; else what was exported, compressed.

    Args:
        content: the digest of the headers.
        archive: the export of the daemon.
        directory: of the layout, made by this.

    Raises:
        NoSpace, DiskError: it cannot be written.
        KheadersError: it is larger than what the source ``registry`` accepts.
    """
    with explained("write the artifact", directory.parent):
        data = kernel_archive(headers)
        media_type = _XZ
        if data is None:
            media_type, data = _ZSTD, _compressed(archive)
        if len(data) > oci.MAX_LAYER:
            raise KheadersError(f"the headers have {len(data)} bytes, and {oci.MAX_LAYER} can be fetched")
        layer = Descriptor(media_type, hashlib.sha256(data).hexdigest(), len(data))
        manifest = Manifest(oci.config(), layer, headers.annotations | {oci.CONTENT: content})
        _write(directory, manifest, data)
    return manifest


def write_file_layout(
    kind: oci.Kind, annotations: Mapping[str, str], data: bytes, directory: Path
) -> Manifest:
    """Write an OCI layout with a file that was made from headers as the one artifact.

    Args:
        annotations: what is said of it, but for its content.
        directory: of the layout, made by this.

    Raises:
        OSError: it cannot be written.
        KheadersError: it is larger than what other hosts fetch.
    """
    (media_type,) = kind.layer_types
    compressed = zstandard.ZstdCompressor(level=_LEVEL).compress(data)
    if len(compressed) > oci.MAX_LAYER:
        raise KheadersError(f"it has {len(compressed)} bytes, and {oci.MAX_LAYER} can be fetched")
    layer = Descriptor(media_type, hashlib.sha256(compressed).hexdigest(), len(compressed))
    content = {oci.CONTENT: hashlib.sha256(data).hexdigest(), oci.BYTES: str(len(data))}
    manifest = Manifest(oci.config(kind), layer, {**annotations, **content})
    _write(directory, manifest, compressed)
    return manifest


def _write(directory: Path, manifest: Manifest, layer: bytes) -> None:
    directory.joinpath(oci.blob_name("")).mkdir(parents=True)
    blobs = {oci.blob_name(manifest.layer.digest): layer}
    for name, text in (oci.layout(manifest.encode()) | blobs).items():
        write_new(directory / name, text)


def kernel_archive(headers: Headers) -> bytes | None:
    """The archive as the kernel gave it, None if it is not there any more, or there never was one."""
    try:
        if headers.origin.name.startswith("kheaders.ko"):
            with opened(headers.origin) as (descriptor, _), open(descriptor, "rb", closefd=False) as file:
                data = cut_out(
                    whole(file, str(headers.origin), MAX_MODULE), str(headers.origin), headers.release
                )
        elif headers.origin.name == "kheaders.tar.xz":
            data = read_file(headers.origin, MAX_ARCHIVE)
        else:
            return None
    except (OSError, Corrupt, ReleaseMismatch):
        return None
    return data if hashlib.sha256(data).hexdigest() == headers.digest else None


def headers_of(entry: Mapping[str, object], architecture: str, origin: Path) -> Headers:
    """The headers of an entry as Describe shows it."""
    return Headers(
        parse_release(str(entry["release"])),
        str(entry["digest"]),
        str(entry["source"]),
        origin,
        str(entry.get("build_id", "")),
        architecture,
    )


def _copied(pipe: IO[bytes], file: IO[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    size = 0
    while piece := pipe.read(_READ_BYTES):
        size += len(piece)
        if size > _MAX_EXPORT:
            raise Corrupt(f"the export of the headers has more than {_MAX_EXPORT} bytes")
        file.write(piece)
        update(piece)
        yield piece


def _compressed(archive: Path) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(read_file(archive, _MAX_EXPORT))
