"""Commands that run apart from the daemon: in units of their own, or as children that can do little.

What the daemon does not trust, or must not be able to do itself, it has done here: a compiler reads whatever
is in an archive, and a download needs the network.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .child import Finished, Run

MEMORY_BYTES = 2 << 30
"""The address space that each process of a compiler may take. As in kheaders-compile@.service."""

FILE_BYTES = 256 << 20
"""How long a file may become that a compiler writes. As in kheaders-compile@.service."""

COMPILE_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    # Neither temporary files nor a crashed compiler's reports are of any use.
    "TMPDIR": "/nonexistent",
}
"""All of a compiler's environment: what else it would look at there (CPATH, ...) is no input of its."""

_COMPILE_SOCKET = Path("/run/kheaders-compile")
_FETCH_SOCKET = Path("/run/kheaders-fetch")

_NO_MEMORY = ("out of memory", "bad_alloc", "annot allocate memory", "memory exhausted")


def compile_run(socket: Path = _COMPILE_SOCKET) -> Run:
    """What runs a compiler: kheaders-compile.socket, or where it is not offered, a confined child."""
    from .confined_child import confined
    from .unit import Unit

    unit = Unit(socket)
    return unit if unit.is_offered() else confined


def fetch_run(socket: Path = _FETCH_SOCKET) -> Run:
    """What runs a command that needs the network: kheaders-fetch.socket, or else we ourselves."""
    from .child import run
    from .unit import Unit

    unit = Unit(socket)
    return unit if unit.is_offered() else run


def limit_met(finished: Finished) -> str:
    """Which of a compiler's limits may have ended it, as the end of a sentence, or nothing.

    A compiler that gets no more memory says so and aborts, or is killed; the one that writes too much gets
    SIGXFSZ, or says that the file is too large.
    """
    if finished.status == 0:
        return ""
    # clang outlives the part of it that a signal ends, and returns what a shell would.
    by = -finished.status if finished.status < 0 else finished.status - 128
    if by == signal.SIGXFSZ or "File too large" in finished.complaints:
        return f"it wrote more than {FILE_BYTES >> 20} MiB"
    if any(words in finished.complaints for words in _NO_MEMORY):
        return f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if by == signal.SIGKILL:
        return f"it was killed, as it is when it needs more than {MEMORY_BYTES >> 20} MiB of memory"
    if 0 < by < signal.NSIG:
        return f"it was ended by signal {by} ({signal.strsignal(by)})"
    return ""
