# SPDX-License-Identifier: LGPL-2.1-or-later
"""Archives as the kernel has them: an xz file of some megabytes, held whole in memory."""

from __future__ import annotations

import functools
import hashlib
import io

from ..errors import Corrupt
from ..formats.decompress import chunks
from ..formats.xz_index import xz_size
from .source import Archive, Layer, whole

MAX_ARCHIVE = 24 * 1024 * 1024
"""Bytes. Real archives are 4 to 5 MB, or twice that with comments. Until it is extracted it is in memory."""

_XZ_HEADER = b"\xfd7zXZ\0"
_XZ_FOOTER = b"YZ"


def archive_from_bytes(
    data: bytes, *, label: str, origin: str, build_id: str = "", origin_stamp: str = ""
) -> Archive:
    """Make an archive of one layer out of kheaders.tar.xz; about 3 ms, for the digest.

    Args:
        data: the whole file, which stays in memory for as long as the archive.
        label: what messages call it.
        origin: see `Archive`, as the other arguments.

    Raises:
        Corrupt: it is not one whole xz file.
    """
    if not data.startswith(_XZ_HEADER):
        raise Corrupt(f"{label} is not an xz archive: it does not begin as one")
    if not data.rstrip(b"\0").endswith(_XZ_FOOTER):  # padding may follow
        raise Corrupt(f"{label} is cut short: it does not end as an xz archive does")
    return Archive(
        digest=hashlib.sha256(data).hexdigest(),
        layers=(
            Layer(
                label=label,
                chunks=functools.partial(chunks, functools.partial(io.BytesIO, data), label, "xz"),
                place=whole,
                tar_bytes=xz_size(data),
            ),
        ),
        origin=origin,
        build_id=build_id,
        origin_stamp=origin_stamp,
    )
