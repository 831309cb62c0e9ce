# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands that give programs the environment in which they find the headers: ``exec`` and ``env``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ..errors import InvalidArgs
from ..names import MAX_REASON
from ..system.printable import printable
from . import output, precompiled
from .calls import headers, options, request, tell_warnings
from .failures import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from .calls import ServiceClient


class Execution(NamedTuple):
    """A command that replaces kheadersctl: its words, variables to set, and the lease it inherits."""

    command: list[str]
    environment: Mapping[str, str]
    lease: int | None = None

    def run(self) -> NoReturn:
        """Replace this process by the command.

        Raises:
            CommandError: there is no such program (127), or it cannot be run (126), as in a shell.
        """
        # The lease lasts until the command and all programs that it starts have ended.
        if self.lease is not None:
            os.set_inheritable(self.lease, True)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python; the command would inherit that
            signal.signal(ignored, signal.SIG_DFL)
        try:
            os.execvpe(self.command[0], self.command, {**os.environ, **self.environment})
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            name = printable(self.command[0])
            raise CommandError(code, f"cannot run {name}: {error.strerror}") from None


async def prepare_exec(client: ServiceClient, arguments: argparse.Namespace) -> Execution:
    """Acquire headers for a command, unless they were dropped and it compiles with precompiled ones.

    Raises:
        CommandError: the call failed.
    """
    added: dict[str, str] = {}
    lease, complaint, dropped = None, "", False
    if arguments.precompiled:
        dropped = await _were_dropped(client, arguments.release)
        try:
            added = _for_precompiled(arguments, dropped=dropped)
        except InvalidArgs as error:
            name = printable(Path(arguments.command[0]).name)
            complaint = f"kheadersctl: {name} compiles without precompiled headers: {error.message}"
    if not (added and dropped):
        # Without the command's arguments, which may have passwords: all users can read the reasons of leases.
        reason = printable("kheadersctl exec " + Path(arguments.command[0]).name)[:MAX_REASON]
        given = {**options(arguments, "source", "refresh"), "reason": ("s", reason)}
        lease, *_, details = await request(client, "Acquire", "sa{sv}", arguments.release, given)
        tell_warnings(details)
        added = details.get("environment", {}) | added
    if complaint:
        output.complain(complaint)
    return Execution(arguments.command, added, lease)


def _for_precompiled(arguments: argparse.Namespace, *, dropped: bool) -> dict[str, str]:
    """The variables that make a tool use precompiled headers.

    Raises:
        InvalidArgs: the tool would not look at them, or others than root can write to them.
    """
    if why := precompiled.why_ignored(arguments.command):
        raise InvalidArgs(why)
    return precompiled.environment(arguments.release, dropped=dropped, session=arguments.session)


async def env(client: ServiceClient, arguments: argparse.Namespace) -> int:
    """Print the variables.

    Raises:
        CommandError: the call failed.
    """
    environment: dict[str, str] = {}
    if not (arguments.unless_dropped and await _were_dropped(client, arguments.release)):
        _, details = await headers(client, arguments)
        environment = details.get("environment", {})
    lines = (output.assignment(arguments.shell, name, value) for name, value in environment.items())
    return output.show(arguments, environment, *lines)


async def _were_dropped(client: ServiceClient, release: str) -> bool:
    """Whether the headers of a release were dropped, and only precompiled ones are cached."""
    release = release or (await client.properties())["RunningRelease"]
    (entries,) = await client.call("ListEntries")
    kept = [
        entry.get("headers_kept", True)
        for entry in entries
        if (entry.get("release"), entry.get("kind", "headers")) == (release, "headers")
    ]
    return bool(kept) and not any(kept)
