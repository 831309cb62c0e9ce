# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers before a caller asks: extracted when a kernel is installed, removed when the kernel is removed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache.entry import TYPES
from ..errors import KheadersError, NotAvailable
from ..events import Event
from ..names import MODULE, MODULE_FILE, SYSFS, TREE
from ..sources.tree_copy import is_gone
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..host.host import Host
    from ..host.installed_kernels import Change
    from ..journal import Journal
    from ..release import Release
    from .provider import Provider

log = logging.getLogger(__name__)

# Sources whose headers are of installed kernels: a kernel without modules in /lib/modules/<release> is gone.
_INSTALLED = (MODULE, MODULE_FILE)


class Prefetch:
    """Follows the kernels of a host with the entries of the cache.

    Args:
        is_wanted: whether the configuration lets headers be extracted from module files.
    """

    def __init__(
        self,
        host: Host,
        provider: Provider,
        lifecycle: Lifecycle,
        journal: Journal,
        is_wanted: Callable[[], bool],
    ) -> None:
        self._host = host
        self._provider = provider
        self._lifecycle = lifecycle
        self._journal = journal
        self._is_wanted = is_wanted
        self._removed: set[Release] = set()

    async def follow(self, change: Change) -> None:
        """Remove what belongs to kernels that are gone, then extract what is missing, one after the other.

        The running kernel comes first: its modules may be deleted at any time.
        """
        self._removed = (self._removed | change.gone) - change.installed
        await self._retire(change)
        if self._is_wanted():
            for release in sorted(change.new, key=lambda release: (release != self._host.running, release)):
                await self._extract(release)

    async def _retire(self, change: Change) -> None:
        if not change.installed:
            # The modules are elsewhere, or hidden from the daemon: not all kernels were removed.
            return
        keep = {*change.installed, self._host.running}
        entries = [entry for entry in self._lifecycle.cache.entries() if entry.release not in keep]
        gone = await in_thread(lambda: [entry for entry in entries if self._is_gone(entry)])
        await self._lifecycle.removal.remove_unleased(gone, "its kernel was removed")

    def _is_gone(self, entry: Entry) -> bool:
        """Whether the kernel of an entry was installed on this host and is not any more.

        Its modules are gone. A tree in place says that its kernel is installed (in WSL, without). A package
        can be downloaded for a kernel that is not installed, and a user authorised that: only its age removes
        it. A kernel that showed its headers or types in /sys need not have modules: it counts as installed if
        the daemon has seen its modules go. Blocking.
        """
        record = entry.record
        is_types = record.kind == TYPES
        if record.source == SYSFS or (
            is_types and Path(record.origin).is_relative_to(self._host.path("sys"))
        ):
            return entry.release in self._removed
        if record.source == TREE and not is_types:
            return is_gone(record.origin)
        return is_types or record.source in _INSTALLED

    async def _extract(self, release: Release) -> None:
        try:
            await self._provider.prefetch(release)
        except NotAvailable as error:
            log.debug("nothing to extract ahead: %s", error.message)
        except KheadersError as error:
            self._journal.report(
                Event.AHEAD_FAILED,
                f"The headers of {release} could not be extracted ahead: {error.message}",
                release=release,
                source=MODULE_FILE,
                error=error.bus_name,
            )
