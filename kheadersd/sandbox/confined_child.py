"""Commands as children that can do little: where there is no service manager to make a unit for them.

They are bounded in memory, processor time, and the size of what they write. Where the kernel allows it, they
have namespaces of their own: without a network, and such that none of their descendants outlives them, and
none of them us. Root's children are the user "nobody", without any privilege. Another user's daemon cannot
become somebody else: its children can read and write where that user can.
"""

from __future__ import annotations

import dataclasses
import errno
import math
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Timeout
from .child import run
from .command import Command, Finished
from .limits import FILE_BYTES, MEMORY_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOBODY = 65534
# Of all that the user nobody runs. The limit of another user would be that of his whole session.
_PROCESSES = 1024

_NAMESPACES = ("--net", "--ipc", "--pid", "--fork", "--kill-child=KILL")
# Nobody is left to stop a command when we are killed: so what waits for its namespace ends with us, the first
# in there with that, and all others with the first. To become somebody else revokes what --kill-child does.
_WITH_PARENT = "--pdeathsig=KILL"
_NO_PRIVILEGE = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
# The first process of a namespace ignores signals that others would end by: hence a shell before the command.
_SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
_SHELL_SIGNAL = 128
_OPEN_FILES = 1024
_SPARE_SECONDS = 5  # of processor time, so that what takes too long ends by the clock, and is said to
_TOOLS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PROBE_SECONDS = 30.0


async def run_confined(command: Command) -> Finished:
    """As `process.run`, with less that it can do.

    Its limits have to be set before it runs, and Python cannot do that safely in a process with threads: the
    commands prlimit, unshare and setpriv of util-linux do it, of which each runs the next.

    Raises:
        Timeout: it took longer than it may, and was killed.
        FileNotFoundError: the program, or one of those commands, is not there.
        OSError: it could not be started.
    """
    found = _find(command.program, command.environment)
    namespaces = await _namespaces(command.directory)
    words = [_tool("setpriv"), _WITH_PARENT, "--", *_limits(command.seconds), *namespaces, *_identity()]
    words += [*_SHELL, found, *command.words[1:]]
    try:
        finished = await run(dataclasses.replace(command, words=words))
    except Timeout:
        raise Timeout(f"{command.program} took longer than {command.seconds:g} s and was stopped") from None
    return _by_signal(finished)


def _find(program: str, environment: Mapping[str, str]) -> str:
    """The program's path: it is started by others, whose complaint would be taken for its own.

    Raises:
        FileNotFoundError: it is not there, or not executable.
    """
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    return found


def _limits(seconds: float) -> tuple[str, ...]:
    limits = {
        "as": MEMORY_BYTES,
        "cpu": math.ceil(seconds) + _SPARE_SECONDS,
        "fsize": FILE_BYTES,
        "core": 0,
        "nofile": _OPEN_FILES,
        **({"nproc": _PROCESSES} if os.geteuid() == 0 else {}),
    }
    return (_tool("prlimit"), *(f"--{name}={limit}" for name, limit in limits.items()), "--")


def _identity() -> tuple[str, ...]:
    nobody = (f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups") if os.geteuid() == 0 else ()
    return (_tool("setpriv"), *nobody, *_NO_PRIVILEGE, _WITH_PARENT, "--")


async def _namespaces(directory: Path) -> tuple[str, ...]:
    """The command that makes namespaces, or nothing where the kernel does not let us have them.

    It takes some milliseconds to try it, which is little beside a compiler.
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user")
    unshare = (_tool("unshare"), *user, *_NAMESPACES, "--")
    tried = await run(Command([*unshare, "true"], {}, _PROBE_SECONDS, directory))
    return unshare if tried.status == 0 else ()


def _tool(name: str) -> str:
    """One of our commands, wherever PATH leads those that we run.

    Raises:
        FileNotFoundError: it is not installed.
    """
    return _find(name, {"PATH": _TOOLS_PATH})


def _by_signal(finished: Finished) -> Finished:
    """As a child of ours would have ended: a shell says 128 + n for a signal n."""
    if not _SHELL_SIGNAL < finished.status < _SHELL_SIGNAL + signal.NSIG:
        return finished
    return Finished(_SHELL_SIGNAL - finished.status, finished.stdout, finished.stderr)
