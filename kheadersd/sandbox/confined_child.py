# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command as a child with limits and without privileges, where no unit is offered.

The child's memory, its processor time and the size of its files are bounded. Where the kernel allows it, the
child has namespaces of its own, without a network; its descendants end with it, and it ends with the daemon.
If the daemon is root, the child is the user "nobody", without any privilege. Otherwise the child can read and
write what the daemon's user can.
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
from ..system.priority import IDLE_NICE
from .child import run
from .command import Command, Finished
from .limits import FILE_BYTES, MEMORY_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOBODY = 65534
# Of all processes of the user "nobody". For another user, the limit would apply to the whole session.
_PROCESSES = 1024

_NAMESPACES = ("--net", "--ipc", "--pid", "--fork", "--kill-child=KILL")
# When the daemon is killed, the process that waits for the namespace gets this signal, the first process in
# the namespace after it, and the kernel kills all others. A change of user revokes what --kill-child does.
_WITH_PARENT = "--pdeathsig=KILL"
_NO_PRIVILEGE = ("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")
# The first process of a namespace ignores signals that would end other processes: hence a shell before it.
_SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
_SHELL_SIGNAL = 128
_OPEN_FILES = 1024
_SPARE_SECONDS = 5  # of processor time, so that the time limit ends a command first, and is reported
_TOOLS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PROBE_SECONDS = 30.0


async def run_confined(command: Command) -> Finished:
    """Run a command as a confined child; see `Run`.

    The commands prlimit, unshare and setpriv of util-linux set the limits, each of which runs the next:
    Python cannot safely do that in a process with threads.
    """
    found = _find(command.program, command.environment)
    namespaces = await _namespaces(command.directory)
    words = [_tool("setpriv"), _WITH_PARENT, "--", *_limits(command.seconds), *namespaces, *_identity()]
    words += [*_SHELL, found, *command.words[1:]]
    if command.idle:
        words = [_tool("nice"), f"--adjustment={IDLE_NICE}", *words]
    try:
        finished = await run(dataclasses.replace(command, words=words))
    except Timeout:
        raise Timeout(f"{command.program} took longer than {command.seconds:g} s and was stopped") from None
    return _by_signal(finished)


def _find(program: str, environment: Mapping[str, str]) -> str:
    """The path of the program, which setpriv and the others start: their errors would be taken for its own.

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
    """The command that makes namespaces, or nothing where the kernel does not allow them.

    It is tried each time, for some milliseconds.
    """
    user = () if os.geteuid() == 0 else ("--user", "--map-current-user")
    unshare = (_tool("unshare"), *user, *_NAMESPACES, "--")
    tried = await run(Command([*unshare, "true"], {}, _PROBE_SECONDS, directory))
    return unshare if tried.status == 0 else ()


def _tool(name: str) -> str:
    """The path of a command of util-linux or coreutils, which does not depend on the PATH of the child.

    Raises:
        FileNotFoundError: it is not installed.
    """
    return _find(name, {"PATH": _TOOLS_PATH})


def _by_signal(finished: Finished) -> Finished:
    """The result as if the command had been the child: the shell's status is 128 + n for a signal n."""
    if not _SHELL_SIGNAL < finished.status < _SHELL_SIGNAL + signal.NSIG:
        return finished
    return Finished(_SHELL_SIGNAL - finished.status, finished.stdout, finished.stderr)
