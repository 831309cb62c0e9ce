"""BTF as it is found: whether some bytes are a kernel's type information, before anything else reads them.

The header is `struct btf_header` of the kernel's include/uapi/linux/btf.h. What is in it is left to libbpf,
which checks every type and is run apart.
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
"""How BTF begins in little-endian order: magic, version and no flags."""

_MAGICS = {b"\x9f\xeb": "<", b"\xeb\x9f": ">"}
# The header may grow at its end: it says how long it is.
_MAX_HEADER = 4096
# What makes types those of a kernel, and not of one of the BPF programs that it brings along.
_OF_KERNEL = b"\0task_struct\0"


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """Where the two parts of BTF begin and end, in bytes from its beginning."""

    types: tuple[int, int]
    strings: tuple[int, int]

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return max(self.types[1], self.strings[1])


def parts(head: bytes, label: str) -> Parts:
    """What the header of BTF says.

    Args:
        head: at least `HEADER` bytes, or as many as there are.
        label: what messages call it.

    Raises:
        Corrupt: it is no header, of another version than 1, or claims more than `MAX_BTF`.
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
