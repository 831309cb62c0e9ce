# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands that hand on what comes from the service: ``export`` an archive, ``monitor`` signals."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from ..errors import Corrupt
from ..formats.tar import TarReader
from ..names import SERVICE
from ..system.printable import printable
from ..system.tasks import in_thread
from . import output
from .calls import options, request
from .failures import DONE, FAILED, NO_DAEMON, CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from .client import Client

_READ_BYTES = 1 << 16


async def export(client: Client, arguments: argparse.Namespace) -> int:
    """Write the headers to stdout as an archive.

    Raises:
        CommandError: the call failed, or the archive is incomplete.
    """
    given = options(arguments, "source", "refresh")
    descriptor, *_ = await request(client, "Export", "sa{sv}", arguments.release, given)
    await in_thread(_copy_to_stdout, descriptor)
    return DONE


def _copy_to_stdout(descriptor: int) -> None:
    """Write an archive to stdout while it comes, and check that it is complete.

    Raises:
        CommandError: the archive is incomplete: the service could not read all of the headers.
    """
    try:
        for _ in TarReader(_copied(descriptor), "the archive"):
            pass
    except Corrupt as error:
        hint = "What was written is incomplete. The journal of kheadersd says why; try again."
        raise CommandError(FAILED, f"the archive was cut short: {error.message}", hint) from None
    with output.writing():
        sys.stdout.buffer.flush()


def _copied(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb", buffering=0) as archive:
        while piece := archive.read(_READ_BYTES):
            with output.writing():
                sys.stdout.buffer.write(piece)
            yield piece


async def monitor(client: Client, arguments: argparse.Namespace) -> int:
    """Print every signal of the service until the bus is lost or the output is closed."""
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def show(member: str, values: list[Any]) -> None:
        try:
            _show_signal(member, values, arguments)
            output.flush()
        except (OSError, output.OutputError) as error:
            if not broken.done():
                broken.set_exception(error)

    await client.watch(show, *_SIGNALS)
    await client.properties()  # starts the daemon, or fails
    lost = asyncio.ensure_future(client.lost())
    try:
        await asyncio.wait((lost, broken), return_when=asyncio.FIRST_COMPLETED)
    finally:
        lost.cancel()
    if broken.done():
        broken.result()
    raise CommandError(NO_DAEMON, "the connection to the bus was lost", f"Try again when {SERVICE} is back.")


# For each signal, the names of its values and the line that is printed.
_SIGNALS = {
    "EntryAdded": (("release", "path", "details"), "added {release} {path}"),
    "EntryRemoved": (("release", "path", "reason"), "removed {release} {path}: {reason}"),
    "Progress": (("release", "stage", "fraction"), "{release}: {stage} {fraction:.0%}"),
    "PropertiesChanged": (("interface", "changed", "invalidated"), "{changed}"),
}


def _show_signal(member: str, values: list[Any], arguments: argparse.Namespace) -> None:
    names, line = _SIGNALS[member]
    fields = dict(zip(names, values, strict=False))
    if arguments.json:  # on one line, on a terminal too
        output.put(json.dumps({"time": int(time.time() * 1e6), "signal": member, **fields}))
        return
    if member == "PropertiesChanged":
        fields["changed"] = ", ".join(f"{name} = {value}" for name, value in fields["changed"].items())
    output.put(time.strftime("%H:%M:%S ") + printable(line.format(**fields)))
