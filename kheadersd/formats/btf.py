# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks that bytes are a kernel's type information, BTF, before bpftool reads them.

The header is `struct btf_header` of the kernel's include/uapi/linux/btf.h. libbpf checks every type, in the
sandbox of bpftool.
"""

from __future__ import annotations

import dataclasses
import re
import struct

from ..errors import Corrupt

MAX_BTF = 64 * 1024 * 1024
"""Bytes. A distribution's kernel has 4 to 10 MB."""

HEADER = 24
"""Bytes of the header that every version has."""

LITTLE_ENDIAN = re.compile(rb"\x9f\xeb\x01\x00")
"""The first bytes of BTF in little-endian order: magic, version and no flags."""

_MAGICS = {b"\x9f\xeb": "<", b"\xeb\x9f": ">"}
# Later versions of the header may be longer; it has its own length.
_MAX_HEADER = 4096
# A name in every kernel's BTF, and not in that of the BPF programs within a kernel.
_OF_KERNEL = b"\0task_struct\0"


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """The beginning and the end of the two parts of BTF, in bytes from its beginning."""

    types: tuple[int, int]
    strings: tuple[int, int]

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return max(self.types[1], self.strings[1])


def parts(head: bytes, label: str) -> Parts:
    """The parts that the header of BTF describes.

    Args:
        head: at least `HEADER` bytes, or as many as there are.
        label: what messages call it.

    Raises:
        Corrupt: it is no header, or one of another version than 1, or describes more than `MAX_BTF` bytes.
    """
    order = _MAGICS.get(head[:2])
    if order is None or len(head) < HEADER:
        raise Corrupt(f"{label} is no BTF: it does not begin with the header of BTF")
    version, _, length, types_at, types, strings_at, strings = struct.unpack_from(f"{order}BBIIIII", head, 2)
    if version != 1:
        raise Corrupt(f"{label} is BTF of version {version}; only version 1 is known")
    if not HEADER <= length <= _MAX_HEADER or length % 4 or types_at % 4:
        raise Corrupt(f"{label} is damaged: the header of its BTF makes no sense")
    found = Parts(
        (length + types_at, length + types_at + types),
        (length + strings_at, length + strings_at + strings),
    )
    if found.end > MAX_BTF:
        raise Corrupt(
            f"{label} claims to have {found.end} bytes of BTF, more than the {MAX_BTF} that are taken"
        )
    apart = found.types[1] <= found.strings[0] or found.strings[1] <= found.types[0]
    if not types or not strings or not apart:
        raise Corrupt(f"{label} is damaged: the types and the names in its BTF overlap, or there are none")
    return found


def check(data: bytes, label: str) -> None:
    """Check that ``data`` is a kernel's BTF, complete.

    Raises:
        Corrupt: it is not.
    """
    found = parts(data[:HEADER], label)
    if found.end > len(data):
        raise Corrupt(f"{label} is damaged: its BTF should have {found.end} bytes and has {len(data)}")
    first, last = found.strings[0], found.strings[1] - 1
    if data[first] or data[last]:
        raise Corrupt(f"{label} is damaged: the names in its BTF do not end where they should")
    if data.find(_OF_KERNEL, first, last + 1) < 0:
        raise Corrupt(f"{label} is not a kernel's BTF: it has no task_struct")
