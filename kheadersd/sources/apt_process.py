"""One run of a command: bounded in time and output, and gone without a trace when it is not wanted.

The child has its own process group, nothing on its standard input, and an environment of a few variables. On
a timeout or when the caller is cancelled, the whole group is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
from typing import TYPE_CHECKING, Protocol

from ..errors import Timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MAX_OUTPUT = 64 << 10
"""How many bytes of each output are kept; more is read and dropped."""

_READ_BYTES = 1 << 14
_DRAIN_SECONDS = 5.0
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


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
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        directory: Path,
        seconds: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Finished: ...


def clean_environment() -> dict[str, str]:
    """The search path and the proxies of our own environment, and a language whose messages are known."""
    names = ("PATH", *_PROXIES, *(name.upper() for name in _PROXIES))
    kept = {name: os.environ[name] for name in names if name in os.environ}
    kept.setdefault("PATH", os.defpath)
    # HOME keeps apt and gpgv from looking for anybody's own configuration.
    return {**kept, "LC_ALL": "C", "HOME": "/nonexistent", "DEBIAN_FRONTEND": "noninteractive"}


async def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    seconds: float,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run ``command`` in ``directory`` and wait until it ends.

    Args:
        command: the program, looked up in the environment's PATH, and its arguments.
        environment: all of the child's environment.
        directory: where it runs.
        seconds: how long it may take.
        on_line: is given every line of standard output as it comes, instead of its being kept.

    Raises:
        Timeout: it took longer, and was killed.
        OSError: it could not be started.
    """
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        cwd=directory,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            return await _collect(child, on_line)
    except TimeoutError:
        raise Timeout(f"{command[0]} took longer than {seconds:.0f} s and was stopped") from None
    finally:
        await _end(child)


async def _collect(child: asyncio.subprocess.Process, on_line: Callable[[str], None] | None) -> Finished:
    assert child.stdout is not None
    assert child.stderr is not None
    async with asyncio.TaskGroup() as group:
        output = group.create_task(_keep(child.stdout) if on_line is None else _lines(child.stdout, on_line))
        complaints = group.create_task(_keep(child.stderr))
    status = await child.wait()
    return Finished(status, output.result(), complaints.result())


async def _keep(stream: asyncio.StreamReader) -> str:
    kept = bytearray()
    while piece := await stream.read(_READ_BYTES):
        kept += piece[: MAX_OUTPUT - len(kept)]
    return kept.decode("utf-8", "replace")


async def _lines(stream: asyncio.StreamReader, on_line: Callable[[str], None]) -> str:
    pending = b""
    while piece := await stream.read(_READ_BYTES):
        *lines, pending = (pending + piece).split(b"\n")
        pending = pending[:_READ_BYTES]
        for line in lines:
            on_line(line.decode("utf-8", "replace"))
    return ""


async def _end(child: asyncio.subprocess.Process) -> None:
    """Kill what still runs of the child's group, and wait for it.

    By SIGKILL: whatever that leaves is in directories of ours. The pipes are read to their end, or asyncio
    would not close them.
    """
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            await child.communicate()
