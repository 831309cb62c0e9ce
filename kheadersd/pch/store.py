# SPDX-License-Identifier: LGPL-2.1-or-later
"""The precompiled headers in the cache: verified before they are served, removed when they are outdated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidArgs, KheadersError, NotAvailable
from ..system.tasks import in_thread
from .libbcc import LIBBCC

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..cache.pch_files import Pch
    from .compilers import Compilers
    from .profiles import Profiles


class PchStore:
    """The precompiled headers of all entries. Belongs to the event loop.

    Attributes:
        lifecycle: of the entries.

    Args:
        most: how many an entry may have, see `make_room`. May be changed.
    """

    def __init__(self, lifecycle: Lifecycle, compilers: Compilers, profiles: Profiles, most: int) -> None:
        self.most = most
        self.lifecycle = lifecycle
        self._compilers = compilers
        self._profiles = profiles

    async def get(self, entry: Entry, key: str) -> Pch | None:
        """The precompiled header of that key, known to be intact; None if there is none that is."""
        pch = entry.pchs.get(key)
        if pch is None:
            return None
        pch.touch()
        if pch.is_intact() or await in_thread(pch.verify):
            return pch
        await self.lifecycle.verification.on_pch_damaged(entry, pch)
        return None

    def has(self, entry: Entry, pch: Pch) -> bool:
        """Whether it is there, and neither it nor its entry has been changed; some microseconds."""
        is_there = entry in self.lifecycle.cache and entry.pchs.get(pch.record.key) is pch
        return is_there and pch.is_intact() and entry.is_intact()

    def touch(self, entry: Entry, pch: Pch) -> bool:
        """Note that both are used; return whether the entry's last use has moved."""
        pch.touch()
        before = entry.last_used
        return entry.touch() != before

    def add(self, entry: Entry, pch: Pch, seconds: float) -> None:
        """Make a new one known.

        Args:
            seconds: that compiling or fetching it took.
        """
        record = pch.record
        entry.pchs[record.key] = pch
        verb, origin = ("Fetched", f" from {record.origin}") if record.origin else ("Compiled", "")
        self.lifecycle.reports.on_pch_added(
            f"{verb} {len(record.headers)} headers of {entry.release} for {record.profile} with "
            f"{record.compiler} {record.compiler_version}{origin} to {pch.path} in {seconds:.2f} s",
            entry,
            pch,
            seconds,
        )
        self.lifecycle.pruning.start()

    async def make_room(self, entry: Entry, new: Pch, *, manages: bool) -> None:
        """Remove those of an entry that are outdated, and the least recently used beyond `most`.

        One of a caller's own list of headers takes the place of another such one, if there is any: tools have
        many, and those of profiles may have been made ahead.

        Args:
            new: stays.
            manages: whether the caller may manage the cache. For a caller who may not, none is removed that
                was used within the last hour, is leased, or is of a caller's own list of headers, which not
                every user can have made again: for a while there are more then.
        """
        await self.remove_outdated_of(entry)
        spares = not self._is_of_profile(new)
        others = sorted(
            (pch for pch in entry.pchs.values() if pch is not new),
            key=lambda pch: (spares and self._is_of_profile(pch), pch.last_used),
        )
        too_many = max(0, len(entry.pchs) - self.most)
        removable = [pch for pch in others if manages or self._is_removable(entry, pch)]
        for pch in removable[:too_many]:
            await self.lifecycle.removal.remove_pch(
                entry, pch, f"an entry may have {self.most} (MaxPCHs=), and there are newer ones"
            )

    async def remove_outdated(self) -> None:
        """Remove those whose compiler was upgraded or removed since."""
        for entry in self.lifecycle.cache.entries():
            if not self.lifecycle.cache.locks.is_held(entry):  # else the work that goes on there does it
                await self.remove_outdated_of(entry)

    async def remove_outdated_of(self, entry: Entry) -> None:
        """As `remove_outdated`, of one entry."""
        for pch in list(entry.pchs.values()):
            if await self._is_outdated(pch):
                what = f"{pch.record.compiler} is not what it was made with any more"
                await self.lifecycle.removal.remove_pch(entry, pch, what)

    def _is_removable(self, entry: Entry, pch: Pch) -> bool:
        is_used = pch.is_in_use() or self.lifecycle.leases.held(entry.name)
        return self._is_of_profile(pch) and not is_used

    def _is_of_profile(self, pch: Pch) -> bool:
        known = self._profiles.known(pch.record.profile)
        return known is not None and known.headers == pch.record.headers

    async def _is_outdated(self, pch: Pch) -> bool:
        try:
            compiler = await self._compilers.find(pch.record.compiler)
        except (NotAvailable, InvalidArgs):
            return True
        except KheadersError:
            return False  # that it does not answer now tells nothing
        if compiler.digest != pch.record.compiler_digest:
            return True
        return bool(pch.record.library) and not await in_thread(LIBBCC.is_current, pch.record.library)
