# SPDX-License-Identifier: LGPL-2.1-or-later
"""Returns memory to the kernel: the daemon is idle most of the time."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc's malloc.h
_THRESHOLD = 1024 * 1024
# What a decompressor has in flight. By default each of its pieces is returned to the kernel, and the next
# one touches new pages: 5,000 page faults, and a tenth of the time of an archive.
_TOP = 4 * 1024 * 1024


def keep_little() -> None:
    """Have glibc return buffers of megabytes to the kernel when they are freed, and 4 MiB of others later.

    Called before the first such buffer is made.

    By default glibc keeps such memory after the first time, and gives every thread a heap of its own
    (mallopt(3)). With another C library, this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        _libc().mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        _libc().mallopt(_M_TRIM_THRESHOLD, _TOP)
        _libc().mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return free memory to the kernel, after a large operation. Blocks for some milliseconds."""
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def collect_often() -> None:
    """Collect garbage often: failed requests leave reference cycles of an error and its traceback.

    Objects that live as long as the process are left out. There are at most 10,000 objects of garbage, some 2
    MiB, instead of 70,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1000, 5, 2)


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None)
