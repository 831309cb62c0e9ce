# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file with the daemon's metrics, which the textfile collector of Prometheus' node exporter reads."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..events import Event
from ..system.disk import write_new
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..journal import Journal

_PAUSE = 5.0
"""Seconds between two writes, at least. An exporter is asked every 15 to 60 seconds."""


class MetricsFile:
    """Writes metrics when they have changed, a few seconds apart, and removes the file at the end.

    A reader finds all of one state or no file. Belongs to the event loop; the disk is a thread's.
    """

    def __init__(self, render: Callable[[], str], journal: Journal, *, pause: float = _PAUSE) -> None:
        """
        Args:
            render: the content of the file; takes about a millisecond.
            pause: seconds between two writes, at least.
        """
        self._render = render
        self._journal = journal
        self._pause = pause
        self._path: Path | None = None
        self._changed = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._is_failing = False

    def on_change(self) -> None:
        """Some of the content may have changed."""
        self._changed.set()

    async def configure(self, path: Path | None) -> None:
        """Write to this file from now on, and remove the one before; None for no file."""
        if path == self._path:
            return
        await self.close()
        if path is not None:
            self._path = path
            self._writing = asyncio.create_task(self._follow(path))

    async def close(self) -> None:
        """End writing, and remove the file: what it says is not true any more."""
        path, self._path = self._path, None
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
            self._writing = None
        if path is not None:
            with contextlib.suppress(OSError, KheadersError):
                await in_thread(_remove, path)

    async def _follow(self, path: Path) -> None:
        written = ""
        while True:
            self._changed.clear()
            content = self._render()
            if content != written and await self._write(path, content):
                written = content
            await asyncio.sleep(self._pause)
            await self._changed.wait()

    async def _write(self, path: Path, content: str) -> bool:
        """Whether that is done. The journal hears of the first of several failures."""
        try:
            await in_thread(_replace, path, content.encode())
        except (OSError, KheadersError) as error:
            if not self._is_failing:
                self._journal.report(
                    Event.METRICS_FAILED,
                    f"The metrics cannot be written to {path} (TextFile=): {error}",
                    path=str(path),
                )
            self._is_failing = True
            return False
        self._is_failing = False
        return True


def _new(path: Path) -> Path:
    """Where the file is written: beside it, under a name that the collector does not read."""
    return path.with_name(f".{path.name}.new")


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step, readable for every user. Nothing waits for the disk: it is of this boot."""
    new = _new(path)
    new.unlink(missing_ok=True)
    try:
        write_new(new, content)
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _remove(path: Path) -> None:
    for each in (path, _new(path)):
        each.unlink(missing_ok=True)
