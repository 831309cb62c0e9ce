# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command as a child, with a limit of time and of output.

The child has its own process group, and as its standard input a file or nothing. On a timeout, or when the
caller is cancelled, the whole group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING, Any

from ..errors import Timeout
from ..system.tasks import to_the_end, within
from .command import Finished

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .command import Command

_READ_BYTES = 1 << 14
# include/uapi/linux/memfd.h, since Linux 6.3. Without it some hosts (vm.memfd_noexec=2) refuse to make one.
_MFD_NOEXEC_SEAL = 8
# A child that was killed and does not end hangs in the kernel.
_DRAIN_SECONDS = 1.0


async def run(command: Command) -> Finished:
    """Run a command as a child; see `Run`."""
    with _readable(command.stdin) as stdin:
        child = await start(
            *command.words,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE if command.stdout is None else command.stdout,
            stderr=asyncio.subprocess.PIPE,
            env=command.environment,
            cwd=command.directory,
        )

    def late() -> Timeout:
        return Timeout(f"{command.program} took longer than {command.seconds:g} s and was stopped")

    finished = None
    try:
        finished = await within(command.seconds, _collect(child, command), late)
        return finished
    finally:
        if finished is None:
            await end(child)


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """The descriptor of a file in memory with these bytes. Blocking, for a millisecond with 5 MB.

    Not a pipe: the child need not read, and asyncio does not handle a cancellation while it feeds a pipe
    (3.11, subprocess.py: its futures are left with errors that are never retrieved, or cannot be set).
    """
    if not data:
        yield asyncio.subprocess.DEVNULL
        return
    descriptor = _memory_file()
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _memory_file() -> int:
    try:
        return os.memfd_create("stdin", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("stdin", os.MFD_CLOEXEC)


async def start(*words: str, **how: Any) -> asyncio.subprocess.Process:
    """As asyncio.create_subprocess_exec, in a process group of its own.

    A caller that is cancelled meanwhile leaves no child. asyncio would wait for ever then for pipes that it
    has not connected yet (3.11, base_subprocess.py), and would leave the other processes of the group.

    Raises:
        OSError: it could not be started.
    """
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(*words, **how, start_new_session=True), name=f"start {words[0]}"
    )
    started: list[asyncio.subprocess.Process] = []
    try:
        return await to_the_end(starting, keep=started.append)
    except asyncio.CancelledError:
        for child in started:
            await end(child)
        raise


async def end(child: asyncio.subprocess.Process) -> None:
    """Kill the group of a child of `start`, and wait for the child.

    The child may have ended while others of its group hold its outputs. The pipes are read to their end, or
    asyncio would not close them; a process that has left the group can hold them, or write to them, for ever.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                for stream in (child.stdout, child.stderr):
                    while stream is not None and await stream.read(_READ_BYTES):
                        pass
                await child.wait()
    finally:
        child._transport.close()  # type: ignore[attr-defined]


async def _collect(child: asyncio.subprocess.Process, command: Command) -> Finished:
    assert child.stderr is not None
    async with asyncio.TaskGroup() as group:
        stderr = group.create_task(_keep(child.stderr, command.max_output))
        stdout = None
        if child.stdout is not None and command.on_line is not None:
            stdout = group.create_task(_lines(child.stdout, command.on_line))
        elif child.stdout is not None:
            stdout = group.create_task(_keep(child.stdout, command.max_output))
    status = await child.wait()
    return Finished(status, stdout.result() if stdout is not None else "", stderr.result())


async def _keep(stream: asyncio.StreamReader, most: int) -> str:
    kept = bytearray()
    while piece := await stream.read(_READ_BYTES):
        kept += piece[: most - len(kept)]
    return kept.decode("utf-8", "replace")


async def _lines(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> str:
    pending = b""
    while piece := await stream.read(_READ_BYTES):
        *lines, pending = (pending + piece).split(b"\n")
        pending = pending[:_READ_BYTES]
        for line in lines:
            on_line(line.decode("utf-8", "replace"))
    return ""
