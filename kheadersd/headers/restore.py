# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a source can give the headers of an entry again once they are dropped.

The decision is taken from what is on the host at this moment. In doubt it cannot: a source counts only
if it is seen to have them. Nothing is loaded, downloaded or extracted for it.

- ``tree``: there is a usable tree, and it can be copied.
- ``module-file``: the module file has the very archive that the entry was made from.
- ``sysfs``: the kernel shows that very archive, and kheaders is built in. That of a module goes with the
  module, so only its file counts.
- ``module``: never by itself. That a module can be loaded is known once it is loaded; its file counts.
- ``package``: the package manager's lists, as they are on the host, offer the package.
- ``registry``: never: whether it has them, only the registry can tell.

Sources that the configuration does not use, and those that are not in this list, do not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..names import MODULE_FILE, PACKAGE, SYSFS, TREE
from ..progress import unreported
from ..sources import tree_copy
from ..sources.source import NotFound
from .limits import in_time, limits_of

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..config import Config
    from ..sources.sources import Sources


async def why_not_restorable(entry: Entry, sources: Sources, config: Config) -> str:
    """Why none of the configured sources can give the headers of an entry again; "" if one can."""
    reasons = []
    for name in config.sources:
        try:
            why = await in_time(config, entry.release, name, _why_not(name, entry, sources, config))
        except (NotFound, KheadersError) as error:
            why = error.message
        if not why:
            return ""
        reasons.append(f"{name}: {why}")
    return "; ".join(reasons) or "no sources are configured"


async def _why_not(name: str, entry: Entry, sources: Sources, config: Config) -> str:
    """Why one source cannot; "" if it can.

    Raises:
        NotFound, KheadersError: it says so itself.
    """
    if name == PACKAGE:
        offered = await sources.package.offered(entry.release)
        return "" if offered else "whether there is a package is only known after a download"
    if name == TREE:
        origin = tree_copy.origin(await sources.tree.find(entry.release, unreported))
        identity = await sources.tree.identify(entry.release, origin, limits_of(config))
        return "" if identity else "the tree vanished"
    if name not in (SYSFS, MODULE_FILE):
        return "whether it has them is only known by trying"
    archive = await sources.archives[name].find(entry.release, unreported)
    if name == SYSFS and not sources.sysfs.is_lasting():
        return "the archive that a loaded module shows goes with the module"
    if archive.digest != entry.record.digest:
        return f"{archive.origin} has another archive than the one that they were made from"
    return ""
