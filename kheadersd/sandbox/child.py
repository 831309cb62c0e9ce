"""One run of a command: bounded in time and output, and gone without a trace when it is not wanted.

The child has its own process group, a standard input that is a file with what it is given, or empty, and an
environment of a few variables. On a timeout or when the caller is cancelled, the whole group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import Timeout
from ..system.tasks import to_the_end, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

MAX_OUTPUT = 64 << 10
"""How many bytes of each output are kept unless more is asked for; what is beyond is read and dropped."""

_READ_BYTES = 1 << 14
# include/uapi/linux/memfd.h, since Linux 6.3. Without it some hosts (vm.memfd_noexec=2) refuse to make one.
_MFD_NOEXEC_SEAL = 8
# A child that was killed and does not go away hangs in the kernel; nothing we do ends it.
_DRAIN_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What to run, and how much it may take.

    Attributes:
        words: the program, looked up in the environment's PATH, and its arguments.
        environment: all of its environment.
        seconds: how long it may take.
        directory: where it runs.
        stdin: what it can read; it need not.
        most: how many bytes of each output are kept.
    """

    words: Sequence[str]
    environment: Mapping[str, str]
    seconds: float
    directory: Path = Path("/")
    stdin: bytes = b""
    most: int = MAX_OUTPUT

    @property
    def program(self) -> str:
        return self.words[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """What a command left: its exit status (negative: the signal that ended it) and its outputs."""

    status: int
    output: str
    complaints: str


class Run(Protocol):
    """What runs a command: `run`, or the same somewhere else."""

    async def __call__(
        self,
        command: Command,
        *,
        on_line: Callable[[str], None] | None = None,
        stdout: int | None = None,
    ) -> Finished: ...


async def run(
    command: Command,
    *,
    on_line: Callable[[str], None] | None = None,
    stdout: int | None = None,
) -> Finished:
    """Run a command and wait until it ends, and nobody holds its outputs any more.

    Args:
        on_line: is given every line of standard output as it comes, instead of its being kept.
        stdout: a descriptor, which stays the caller's, that it writes to instead of being read.

    Raises:
        Timeout: it took longer, and was killed.
        OSError: it could not be started.
    """
    with _readable(command.stdin) as stdin:
        child = await start(
            *command.words,
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE,
            env=command.environment,
            cwd=command.directory,
        )

    def late() -> Timeout:
        return Timeout(f"{command.program} took longer than {command.seconds:g} s and was stopped")

    finished = None
    try:
        finished = await within(command.seconds, _collect(child, command, on_line), late)
        return finished
    finally:
        if finished is None:
            await end(child)


@contextlib.contextmanager
def _readable(data: bytes) -> Iterator[int]:
    """A descriptor of a file in memory with these bytes, at its start. Blocking, for a millisecond with 5 MB.

    Not a pipe: the child need not read, and to be cancelled while a pipe is fed is more than asyncio is
    prepared for (3.11, subprocess.py: its futures are left with errors that nobody takes, or cannot be set).
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
    """As asyncio.create_subprocess_exec, in a process group of its own, and not to be interrupted.

    A caller who is cancelled meanwhile leaves no child. asyncio itself would wait for ever then, for pipes
    that it has not connected yet (3.11, base_subprocess.py), and knows nothing of the child's group.

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
    """Kill what still runs of the group of a child that was started here, and wait for it.

    By SIGKILL: whatever that leaves is in directories of ours. The child may have ended while others of its
    group hold its outputs. The pipes are read to their end, or asyncio would not close them; but one who has
    left the group can hold them, or write to them, for ever.
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


async def _collect(
    child: asyncio.subprocess.Process, command: Command, on_line: Callable[[str], None] | None
) -> Finished:
    assert child.stderr is not None
    async with asyncio.TaskGroup() as group:
        complaints = group.create_task(_keep(child.stderr, command.most))
        output = None
        if child.stdout is not None:
            reading = _keep(child.stdout, command.most) if on_line is None else _lines(child.stdout, on_line)
            output = group.create_task(reading)
    status = await child.wait()
    return Finished(status, output.result() if output is not None else "", complaints.result())


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
