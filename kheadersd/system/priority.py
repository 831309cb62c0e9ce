# SPDX-License-Identifier: LGPL-2.1-or-later
"""The low priority of work that no caller waits for."""

from __future__ import annotations

import contextlib
import os

IDLE_NICE = 15
"""Its nice value."""


def lower_priority() -> None:
    """Lower the priority of the calling thread and of what it starts; it stays where a sandbox forbids that.

    On Linux it is the priority of one thread (setpriority(2), "C library/kernel differences").
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, IDLE_NICE)
