# SPDX-License-Identifier: LGPL-2.1-or-later
"""Watches the module and the installed kernels of a host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..events import Event
from ..host.installed_kernels import Change, Kernels
from ..host.uevents import Uevents
from ..system.tasks import Background

if TYPE_CHECKING:
    from ..headers.prefetch import Prefetch
    from ..host.host import Host
    from ..host.kernel_module import KernelModule
    from ..journal import Journal
    from ..pch.ahead import Ahead
    from .observer import Observer


class Watching:
    """Follows the module and the kernels of a host, from `start` to `close`. Belongs to the event loop."""

    def __init__(
        self,
        host: Host,
        module: KernelModule,
        prefetch: Prefetch,
        ahead: Ahead,
        journal: Journal,
        observer: Observer,
    ) -> None:
        self._host = host
        self._module = module
        self._prefetch = prefetch
        self._ahead = ahead
        self._journal = journal
        self._observer = observer
        self._uevents = Uevents("module", "kheaders", self._module_event)
        self._kernels = Kernels(host, self._kernels_changed, self._kernels_limited)
        self._happened = asyncio.Event()
        self._background = Background()

    def start(self) -> None:
        """Begin, in the background."""
        self._background.start(self._kernels.run())
        # The kernel's events are about this machine, not about an image.
        if self._host.is_live:
            self._background.start(self._follow_module())

    async def close(self) -> None:
        """End everything, also an extraction that is under way."""
        await self._background.close()
        self._uevents.close()

    def _module_event(self) -> None:
        # The properties look at the module when they are read.
        self._observer.changed()
        self._happened.set()

    async def _follow_module(self) -> None:
        try:
            await self._uevents.start()
        except (ImportError, OSError) as error:
            self._limited(
                "/sys/module",
                f"Loading and unloading of kheaders by other programs is not noticed at once: {error}",
            )
            return
        while True:
            # Also at first: something may have happened before the events were followed.
            self._happened.clear()
            await self._module.on_uevent()
            self._observer.changed()
            await self._happened.wait()

    async def _kernels_changed(self, change: Change) -> None:
        if self._host.running in change.changed | change.gone:
            await self._module.on_uevent()
            self._observer.changed()
        await self._prefetch.follow(change)
        self._ahead.follow(change)

    def _kernels_limited(self, reason: str) -> None:
        self._limited(
            str(self._host.path("lib/modules")),
            f"Installed kernels are looked for once a minute, because {reason}",
        )

    def _limited(self, path: str, message: str) -> None:
        self._journal.report(Event.WATCH_LIMITED, message, path=path)
