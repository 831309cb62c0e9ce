# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ``package`` source: the distribution's own headers package, unpacked and never installed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from ..host.distribution import distribution
from ..names import PACKAGE
from ..system.tasks import SharedWork, in_thread
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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
        work: a directory of the daemon's own for what package managers write.
        extra: addresses of further repositories; see `configure`.
    """

    name = PACKAGE

    def __init__(self, host: Host, work: Path, extra: Sequence[str] = ()) -> None:
        self._host = host
        self._work = work
        self._extra = tuple(extra)
        self._known: PackageManager | None = None
        self._choosing = asyncio.Lock()
        self._queries = SharedWork()

    def configure(self, extra: Sequence[str]) -> None:
        """Take other addresses of further repositories, which the next request uses."""
        self._extra = tuple(extra)

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
        manager = await self._manager()
        return await self._queries.share(release, lambda: manager.offered(release))

    async def find(self, release: Release, report: Report) -> Archive:
        """See `Source.find`; always downloads."""
        manager = await self._manager()
        return await manager.fetch(release, report)

    async def _manager(self) -> PackageManager:
        # One, as the first thing that it does is to remove what another one left.
        async with self._choosing:
            if self._known is None:
                self._known = await in_thread(choose_manager, self._host, self._work, lambda: self._extra)
            return self._known


def choose_manager(host: Host, work: Path, extra: Callable[[], Sequence[str]]) -> PackageManager:
    """The package manager that serves a host; blocking.

    It is the one of the distribution that os-release(5) names: Debian has dnf and pacman too, for other
    purposes. Where it names none that is known here, it is the first that the host is configured for.

    Args:
        work: a directory of the daemon's own.
        extra: returns the addresses of ``ExtraRepositories=`` as they are now.

    Raises:
        NotFound: UNSUPPORTED, saying of each what is missing.
    """
    from .apt import Apt  # 0.4 MiB, which most daemons do without: they are never asked for a package
    from .pacman import Pacman
    from .rpm import Rpm
    from .suse import Suse

    known = distribution(host)
    families = known.families if known is not None else ()
    makers: dict[str, Callable[[], PackageManager]] = {
        "apt": lambda: Apt(host, work),
        "rpm": lambda: Rpm(host, work, extra),
        "zypper": lambda: Suse(host, work, extra),
        "pacman": lambda: Pacman(host, work, extra),
    }
    of_families = {
        "apt": Apt.FAMILIES,
        "rpm": Rpm.FAMILIES,
        "zypper": Suse.FAMILIES,
        "pacman": Pacman.FAMILIES,
    }
    missing = {
        "apt": Apt.missing(host),
        "rpm": Rpm.missing(host),
        "zypper": Suse.missing(host),
        "pacman": Pacman.missing(host),
    }
    named = [name for name, own in of_families.items() if set(own) & set(families)]
    for name in named or missing:
        if not missing[name]:
            return makers[name]()
    reasons = "; ".join(f"{name}: {missing[name]}" for name in named or missing)
    raise NotFound(Reason.UNSUPPORTED, f"no package manager that is known here can be used ({reasons})")
