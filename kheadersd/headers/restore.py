"""Whether headers could be had again if they left the cache now.

Decided from what is on the host at this moment, and in doubt they cannot: a source counts only if it can be
seen to have them. Nothing is loaded, downloaded or extracted for it.

- ``tree``: there is a usable tree, and it can be copied.
- ``module-file``: the module file has the very archive that the entry was made from.
- ``sysfs``: the kernel shows that very archive, and kheaders is built in. That of a module goes with the
  module, so only its file counts.
- ``module``: never by itself. That a module can be loaded is known once it is loaded; its file counts.
- ``package``: the package manager's lists, as they are on the host, offer the package.

Sources that the configuration does not use, and those that are not in this list, do not count.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from ..errors import KheadersError
from ..progress import unreported
from ..sources import tree_copy as snapshot
from ..sources.source import Archive, NotFound, Source, Tree
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..host.host import Host
    from ..release import Release
    from ..sources.source import Limits
    from ..sources.sysfs import SysfsSource


class Restoration:
    """Looks at the sources. Belongs to the event loop.

    Args:
        offered: names the package that has the headers of a release; None if only a download can tell. Raises
            NotFound if there is none.
        within: waits for a source, named second, and raises Timeout after the time that it may take.
    """

    def __init__(
        self,
        host: Host,
        sources: Mapping[str, Source],
        offered: Callable[[Release], Awaitable[str | None]],
        within: Callable[[Release, str, Awaitable[str]], Awaitable[str]],
    ) -> None:
        self._host = host
        self._sources = sources
        self._offered = offered
        self._within = within

    async def why_lost(self, entry: Entry, names: Sequence[str], limits: Limits) -> str:
        """Why none of these sources can give the headers of an entry again; "" if one can."""
        reasons = []
        for name in names:
            try:
                why = await self._within(entry.release, name, self._why_not(name, entry, limits))
            except (NotFound, KheadersError) as error:
                why = error.message
            if not why:
                return ""
            reasons.append(f"{name}: {why}")
        return "; ".join(reasons) or "no sources are configured"

    async def _why_not(self, name: str, entry: Entry, limits: Limits) -> str:
        """Why one source cannot; "" if it can.

        Raises:
            NotFound, KheadersError: it says so itself.
        """
        if name == "package":
            offered = await self._offered(entry.release)
            return "" if offered else "whether there is a package is only known after a download"
        if name not in ("tree", "sysfs", "module-file"):
            return "whether it has them is only known by trying"
        offer = await self._sources[name].find(entry.release, unreported)
        if isinstance(offer, Tree):
            cancelled = threading.Event()
            work = (self._host, entry.release, snapshot.origin(offer), limits, cancelled)
            return "" if await in_thread(snapshot.look, *work, cancelled=cancelled) else "the tree vanished"
        if name == "sysfs" and not cast("SysfsSource", self._sources[name]).is_lasting():
            return "the archive that a loaded module shows goes with the module"
        return _other_archive(offer, entry)


def _other_archive(offer: Archive, entry: Entry) -> str:
    if offer.digest == entry.record.digest:
        return ""
    return f"{offer.origin} has another archive than the one that they were made from"
