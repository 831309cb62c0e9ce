# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``package`` source: the distribution's own headers package, unpacked and never installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..system.tasks import SharedWork
from .source import NotFound, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from .source import Archive


class PackageManager(Protocol):
    """What a distribution's package manager does for the source; one module each, such as `apt`."""

    async def offered(self, release: Release) -> str | None:
        """Name and version of the package for ``release`` as far as is known without any download.

        None if a download is needed to know.

        Raises:
            NotFound: there is none.
        """
        ...

    async def fetch(self, release: Release, report: Report) -> Archive:
        """Download and verify the headers. Nothing is left on the disk but what the archive holds open.

        Raises:
            NotFound: there are none, or they cannot be downloaded now.
            KheadersError: what came is damaged or not genuine, there is no room, it took too long.
        """
        ...


class PackageSource:
    """Headers from the host's package manager.

    Args:
        host: whose package manager, sources and keys are used.
        work: a directory of the daemon's own for what the package manager writes.
    """

    name = "package"

    def __init__(self, host: Host, work: Path) -> None:
        self._host = host
        self._work = work
        self._known: PackageManager | None = None
        self._queries = SharedWork()

    async def close(self) -> None:
        """Cancel all queries, and wait until they have ended."""
        await self._queries.close()

    async def offered(self, release: Release) -> str | None:
        """What `find` would download, like "linux-headers-6.1.0-56-amd64 6.1.192-2". Takes about a second.

        Downloads nothing, so it can be asked before the caller is asked for an authorisation. None if only a
        download, of new package lists, can tell.

        Raises:
            NotFound: there is no such package, or no package manager that is known here.
            Timeout: the package manager did not answer.
        """
        manager = self._manager()
        return await self._queries.share(release, lambda: manager.offered(release))

    async def find(self, release: Release, report: Report) -> Archive:
        """See `Source.find`; always downloads."""
        return await self._manager().fetch(release, report)

    def _manager(self) -> PackageManager:
        if self._known is None:
            from .apt import Apt  # 0.4 MiB, which most daemons do without: they are never asked for a package

            if not Apt.serves(self._host):
                raise NotFound(
                    Reason.UNSUPPORTED,
                    f"no package manager that is known here: no apt-get, or no {self._host.path('etc/apt')}",
                )
            self._known = Apt(self._host, self._work)
        return self._known
