"""An entry whose archive or BTF is found again, at the same place or at another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NoSpace
from ..system.disk import DiskError, Vanished
from ..system.tasks import in_thread

if TYPE_CHECKING:
    from .entry import Entry, Record
    from .lifecycle import Keeper


async def update_origin(keeper: Keeper, entry: Entry, record: Record) -> bool:
    """Note where an entry comes from now, on the disk and in memory, and prefer the entry.

    The caller holds the entry's lock. Where the disk cannot be written, the entry is good nevertheless, and
    its origin is known until the next start.

    Returns:
        False if the entry was removed or replaced meanwhile.
    """
    if record != entry.record:
        try:
            await in_thread(entry.write_record, record)
        except Vanished:
            return False
        except (NoSpace, DiskError) as error:
            keeper.failed(error.message)
        if entry not in keeper.cache or not entry.is_intact():
            return False
        entry.record = record
    keeper.cache.prefer(entry)
    return True
