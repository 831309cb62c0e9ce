# SPDX-License-Identifier: LGPL-2.1-or-later
"""The polkit agent that asks for a password on the terminal of kheadersctl."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_PROGRAM = "/usr/bin/pkttyagent"
_REGISTRATION_SECONDS = 2.0


@contextlib.contextmanager
def polkit_agent() -> Iterator[None]:
    """Run the agent meanwhile, unless the user is root or has no terminal."""
    agent = None
    if os.geteuid() != 0 and sys.stdin is not None and sys.stdin.isatty():
        agent = _start()
    try:
        yield
    finally:
        if agent is not None:
            agent.terminate()
            agent.wait()


def _start() -> subprocess.Popen[bytes] | None:
    import subprocess  # 3 ms of all that need no agent

    reader, writer = os.pipe()
    try:
        # --fallback: an agent of the desktop takes precedence. The descriptor closes after registration.
        agent = subprocess.Popen(
            [_PROGRAM, "--process", str(os.getpid()), "--notify-fd", str(writer), "--fallback"],
            pass_fds=[writer],
            stdout=subprocess.DEVNULL,  # the agent asks on the controlling terminal
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        agent = None
    finally:
        os.close(writer)
    if agent is not None:
        select.select([reader], [], [], _REGISTRATION_SECONDS)
    os.close(reader)
    return agent
