"""What is said of a compiler that a limit may have ended."""

from __future__ import annotations

import pytest

from kheadersd.sandbox.command import Finished
from kheadersd.sandbox.limits import exceeded_limit

_KILLED = "it was killed, as it is when it needs more than 2048 MiB of memory"
_MEMORY = "it needs more than 2048 MiB of memory"
_LENGTH = "it wrote more than 256 MiB"


@pytest.mark.parametrize(
    ("status", "complaints", "limit"),
    [
        (0, "out of memory", ""),
        (1, "error: no such header", ""),
        (-9, "", _KILLED),
        (137, "", _KILLED),
        (1, "LLVM ERROR: out of memory\nAllocation failed", _MEMORY),
        (-6, "terminate called after throwing an instance of 'std::bad_alloc'", _MEMORY),
        (-25, "", _LENGTH),
        (1, "error: unable to output: 'File too large'", _LENGTH),
        (-11, "", "it was ended by signal 11 (Segmentation fault)"),
        (139, "", "it was ended by signal 11 (Segmentation fault)"),
        (255, "", ""),
    ],
)
def test_limits(status: int, complaints: str, limit: str) -> None:
    assert exceeded_limit(Finished(status, "", complaints)) == limit
