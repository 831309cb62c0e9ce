# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether the libbcc of this process is the one that a precompiled header was made for.

A container has its own, as has who sets LD_LIBRARY_PATH, and one that was upgraded stays loaded. Clang knows
another version of itself, but no other headers of libbcc's.
"""

from __future__ import annotations

import ctypes
import os

from .bus import Refused

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

_OTHER = "they are made for another libbcc than this program has loaded"


def check(function: Any, digest: str, file: str) -> None:
    """0.2 ms; where the file is another one of the same size, some milliseconds for each of its megabytes.

    Args:
        function: of the library.
        digest: the sha256 of the library that it has to be.
        file: device, inode, ctime and size of its file, separated by colons.

    Raises:
        Refused: it is another library, or its file was removed.
        OSError: it cannot be told.
    """
    try:
        with open(_mapped(function), "rb") as library:
            status = os.fstat(library.fileno())
            if file == f"{status.st_dev}:{status.st_ino}:{status.st_ctime_ns}:{status.st_size}":
                return
            if file.rpartition(":")[2] == str(status.st_size):
                import hashlib

                if hashlib.sha256(library.read()).hexdigest() == digest:
                    return
    except FileNotFoundError:
        pass
    raise Refused(_OTHER)


def _mapped(function: Any) -> str:
    """The path of the file that a function is in; where that was removed, it leads nowhere (proc(5))."""
    address = ctypes.cast(function, ctypes.c_void_p).value or 0
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            start, _, end = line.partition(b" ")[0].partition(b"-")
            if int(start, 16) <= address < int(end, 16):
                return os.fsdecode(line.rstrip(b"\n").split(None, 5)[-1])
    raise Refused(_OTHER)
