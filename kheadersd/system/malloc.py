"""A daemon that is idle most of the time does not keep the memory that it needed once."""

from __future__ import annotations

import contextlib
import functools
import gc
from typing import Any

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # glibc's malloc.h
_THRESHOLD = 1024 * 1024


def keep_little() -> None:
    """Let buffers of megabytes go back to the kernel when they are freed; before the first of them.

    By itself glibc learns from the first to keep such memory, and gives every thread a heap of its own
    (mallopt(3)). Elsewhere than with glibc, nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        _libc().mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)
        _libc().mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what is free to the kernel, after something large was done: some milliseconds, blocking."""
    with contextlib.suppress(OSError, AttributeError):
        _libc().malloc_trim(0)


def collect_often() -> None:
    """Keep what failed requests leave in reference cycles (an error, its traceback) from piling up.

    What lives as long as the process is left out, so that a collection has little to look at: at most 10,000
    objects of garbage, some 2 MiB, instead of 70,000.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1000, 5, 2)


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)
