# SPDX-License-Identifier: LGPL-2.1-or-later
"""The limits of compilers, and whether one of them ended a compiler."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .command import Finished

MEMORY_BYTES = 2 << 30
"""The address space of each process of a compiler, as in kheaders-compile@.service."""

FILE_BYTES = 256 << 20
"""The size of a file that a compiler writes, as in kheaders-compile@.service."""

_NO_MEMORY = ("out of memory", "bad_alloc", "annot allocate memory", "memory exhausted")


def exceeded_limit(finished: Finished) -> str:
    """The limit that may have ended a compiler, as the end of a sentence; "" if none has.

    A compiler that gets no more memory says so and aborts, or is killed. A compiler that writes too much gets
    SIGXFSZ, or says that the file is too large.
    """
    if finished.status == 0:
        return ""
    # clang runs another process, and when a signal ends that, returns what a shell would.
    number = -finished.status if finished.status < 0 else finished.status - 128
    if number == signal.SIGXFSZ or "File too large" in finished.stderr:
        return f"it wrote more than {FILE_BYTES >> 20} MiB"
    if any(words in finished.stderr for words in _NO_MEMORY):
        return f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if number == signal.SIGKILL:
        return f"it was killed, as it is when it needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if 0 < number < signal.NSIG:
        return f"it was ended by signal {number} ({signal.strsignal(number)})"
    return ""


def why_failed(finished: Finished, printed: str) -> str:
    """Why a command failed, as the end of a sentence: a limit, else ``printed``, else its exit status."""
    return exceeded_limit(finished) or printed or f"it ended with status {finished.status}"
