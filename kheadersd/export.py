"""Headers as a stream, for those who see the bus and not the cache: in containers.

A descriptor of a directory would be simpler, and would lead out of any container by its "..".
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from .apart.process import start
from .errors import KheadersError, LimitsExceeded
from .work import Background

if TYPE_CHECKING:
    from collections.abc import Callable

    from .sources import Tree

MAX_TOTAL = 16
MAX_PER_USER = 4
"""Streams at a time. Root may have all of them."""

_TIME_LIMIT = 600.0  # seconds; a reader who does not read must not keep a child for ever
_PARTS = ("include", "arch")


class Exports:
    """The streams that are being read. Belongs to the event loop."""

    def __init__(self) -> None:
        self._of_user: collections.Counter[int] = collections.Counter()
        self._background = Background()
        self._children: set[asyncio.subprocess.Process] = set()

    async def close(self) -> None:
        """Cut off what is still being read."""
        for child in self._children:
            _kill(child)
        await self._background.settle()

    async def start(self, tree: Tree, uid: int, ended: Callable[[], None]) -> int:
        """Begin to write the headers of a tree, both parts of a split one, as a tar archive.

        Args:
            uid: of who asked for it.
            ended: called when nothing of the tree is needed any more, also when this fails.

        Returns:
            The end of a pipe to read from, the caller's to close. The archive is whole if it ends as tar
            archives do.

        Raises:
            LimitsExceeded: too many are being read.
            KheadersError: tar(1) cannot be run.
        """
        try:
            if self._of_user.total() >= MAX_TOTAL or (uid and self._of_user[uid] >= MAX_PER_USER):
                raise LimitsExceeded("too many headers are being exported; wait until some have been read")
            self._of_user[uid] += 1
            try:
                reader, child = await _run_tar(tree)
            except BaseException:
                self._of_user[uid] -= 1
                raise
        except BaseException:
            ended()
            raise
        self._children.add(child)
        self._background.start(self._see_to_its_end(child, uid, ended))
        return reader

    async def _see_to_its_end(
        self, child: asyncio.subprocess.Process, uid: int, ended: Callable[[], None]
    ) -> None:
        try:
            async with asyncio.timeout(_TIME_LIMIT):
                await child.wait()
        except TimeoutError:
            _kill(child)
            await child.wait()
        finally:
            self._children.discard(child)
            self._of_user[uid] -= 1
            ended()


async def _run_tar(tree: Tree) -> tuple[int, asyncio.subprocess.Process]:
    arguments = ["--create", "--file=-", "--owner=root:0", "--group=root:0"]
    for place in dict.fromkeys((tree.source_tree, tree.build_tree)):
        parts = [part for part in _PARTS if (place / part).is_dir()]
        arguments += [f"--directory={place}", *parts]
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = await start(
            "tar",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writer,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except BaseException as error:
        os.close(reader)
        if isinstance(error, OSError):
            raise KheadersError(f"the headers cannot be exported: tar: {error.strerror}") from error
        raise
    finally:
        os.close(writer)
    return reader, child


def _kill(child: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
