"""All that is behind the interface of a daemon, in the tests' own process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.cache.entry import Entry
from kheadersd.cache.without_headers import drop_headers
from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.events import Event
from kheadersd.headers.consent import Action
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import NoLoader
from kheadersd.journal import Journal
from kheadersd.sources.source import Limits


class Root:
    """A caller who may do everything."""

    is_interactive = False

    async def consent(self, action: Action) -> int:  # noqa: ARG002
        return 0

    async def may(self, action: Action) -> bool:  # noqa: ARG002
        return True


class NoObserver:
    """An observer that ignores everything."""

    def entry_added(self, entry: object) -> None: ...

    def pch_added(self, pch: object) -> None: ...

    def entry_removed(self, entry: object, reason: str) -> None: ...

    def progress(self, release: object, stage: str, fraction: float) -> None: ...

    def changed(self) -> None: ...


class Kept(Journal):
    """Keeps what is said.

    Attributes:
        levels: the last one of each event.
    """

    def __init__(self) -> None:
        super().__init__(target="null")
        self.said: list[tuple[Event, str]] = []
        self.levels: dict[Event, str] = {}

    def report(self, event: Event, message: str, *, level: str | None = None, **fields: object) -> None:
        self.said.append((event, message))
        self.levels[event] = level or event.level
        super().report(event, message, level=level, **fields)

    def of(self, event: Event) -> list[str]:
        return [message for said, message in self.said if said is event]


@pytest.fixture
def journal() -> Kept:
    return Kept()


@pytest.fixture
async def state(host: Host, journal: Kept, tmp_path: Path) -> AsyncIterator[Parts]:
    state = Parts(host, Config(), tmp_path / "cache", journal, NoLoader("no module here"), NoObserver())
    await state.start()
    yield state
    await state.close()


LIMITS = Limits()


def take_headers_away(state: Parts, entry: Entry) -> Entry:
    published = drop_headers(state.cache, entry, ["include/linux/more.h"])
    state.cache.insert(published.entry)
    state.lifecycle.on_headers_dropped(published)
    return published.entry
