# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chooses how commands run: in a unit where the service manager offers that, else as a child.

The daemon runs no compiler with its own privileges, because a compiler reads whatever is in an archive. The
daemon has no access to the network either, which a download needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .child import run
from .confined_child import run_confined
from .unit_client import UnitClient

if TYPE_CHECKING:
    from .command import Run

COMPILE_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C",
    "HOME": "/nonexistent",
    # Neither temporary files nor a crashed compiler's reports are of any use.
    "TMPDIR": "/nonexistent",
    # A script may run the compiler by ccache, which then keeps nothing and runs the compiler.
    "CCACHE_DISABLE": "1",
}
"""All of a compiler's environment: without CPATH and the like, which would change its result."""

_COMPILE_SOCKET = Path("/run/kheaders-compile")
_FETCH_SOCKET = Path("/run/kheaders-fetch")


def compiler_runner(socket: Path = _COMPILE_SOCKET) -> Run:
    """What runs a compiler: kheaders-compile.socket, or where that is not offered, `run_confined`."""
    unit = UnitClient(socket)
    return unit if unit.is_offered() else run_confined


def network_runner(socket: Path = _FETCH_SOCKET) -> Run:
    """What runs a command that needs the network: kheaders-fetch.socket, or else `run`."""
    unit = UnitClient(socket)
    return unit if unit.is_offered() else run


def is_network_confined(socket: Path = _FETCH_SOCKET) -> bool:
    """Whether `network_runner` runs commands in kheaders-fetch@.service, which cannot write to entries."""
    return UnitClient(socket).is_offered()
