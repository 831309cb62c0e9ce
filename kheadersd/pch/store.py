"""The precompiled headers that are there: confirms them before they are handed out, and lets them go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidArgs, KheadersError, NotAvailable
from ..journal import Event
from ..system.tasks import in_thread
from .bcc_recipe import is_current

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..cache.pch_files import Pch
    from .compilers import Compilers


class PchStore:
    """All of them, below all entries. Belongs to the event loop."""

    def __init__(self, lifecycle: Lifecycle, compilers: Compilers) -> None:
        self._lifecycle = lifecycle
        self._compilers = compilers

    async def confirmed(self, entry: Entry, key: str) -> Pch | None:
        """The precompiled header of that key, known to be intact; None if there is none that is."""
        pch = entry.pchs.get(key)
        if pch is None:
            return None
        pch.touch()
        if pch.intact() or await in_thread(pch.confirm):
            return pch
        await self._lifecycle.verification.on_pch_damaged(entry, pch)
        return None

    def added(self, entry: Entry, pch: Pch, seconds: float) -> None:
        """Make a new one known.

        Args:
            seconds: that making it took.
        """
        record = pch.record
        entry.pchs[record.key] = pch
        self._lifecycle.reports.on_pch(
            Event.PCH_ADDED,
            f"Compiled {len(record.headers)} headers of {entry.release} for {record.profile} with "
            f"{record.compiler} {record.compiler_version} to {pch.path} in {seconds:.2f} s",
            entry,
            pch,
            bytes=record.bytes,
            duration_usec=int(seconds * 1e6),
        )
        self._lifecycle.reports.on_change()
        self._lifecycle.pruning.start()

    async def make_room(self, entry: Entry, new: Pch, most: int, may_go: Callable[[Pch], bool]) -> None:
        """Let those go that were not used for the longest time, until there are at most so many.

        Args:
            new: stays.
            may_go: those of which it does not hold stay, too. Then there are more.
        """
        others = sorted((pch for pch in entry.pchs.values() if pch is not new), key=lambda pch: pch.last_used)
        too_many = max(0, len(entry.pchs) - most)
        others = [pch for pch in others if may_go(pch)]
        for pch in others[:too_many]:
            await self._lifecycle.removal.remove_pch(
                entry, pch, f"an entry may have {most} (MaxPCHs=), and there are newer ones"
            )

    async def retire(self) -> None:
        """Let those go whose compiler was upgraded or removed since."""
        for entry in self._lifecycle.cache.entries():
            if not self._lifecycle.cache.locks.is_held(entry):  # or whoever is at work there does it
                await self.retire_of(entry)

    async def retire_of(self, entry: Entry) -> None:
        """The same, of one entry."""
        for pch in list(entry.pchs.values()):
            if not await self._is_valid(pch):
                what = f"{pch.record.compiler} is not what it was made with any more"
                await self._lifecycle.removal.remove_pch(entry, pch, what)

    async def _is_valid(self, pch: Pch) -> bool:
        try:
            compiler = await self._compilers.find(pch.record.compiler)
        except (NotAvailable, InvalidArgs):
            return False
        except KheadersError:
            return True  # that it does not answer now says nothing
        if compiler.digest != pch.record.compiler_digest:
            return False
        return not pch.record.library or await in_thread(is_current, pch.record.library)
