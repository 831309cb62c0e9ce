"""Sources that answer what a test tells them, and callers that do what a test tells them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kheadersd.errors import AccessDenied
from kheadersd.host.kernel_module import KernelModule, NoLoader
from kheadersd.sources.package import PackageSource
from kheadersd.sources.source import Archive, NotFound, Reason
from kheadersd.sources.sources import Sources

if TYPE_CHECKING:
    from kheadersd.headers.consent import Action
    from kheadersd.host.host import Host
    from kheadersd.progress import Report
    from kheadersd.release import Release

Answer = Archive | Exception


class MadeUpSource:
    """A source with one answer.

    Attributes:
        asked: how many times.
        may_answer: set, unless a test lets the source wait.
    """

    def __init__(self, name: str, answer: Answer) -> None:
        self.name = name
        self.answer = answer
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def find(self, release: Release, report: Report) -> Archive:  # noqa: ARG002
        self.asked += 1
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class MadeUpPackages(PackageSource):
    """Packages that are offered, or not, without a package manager.

    Attributes:
        offer: the package; None if only a download can tell, an error if there is none.
        looked: how many times a package was looked for.
    """

    offer: str | Exception | None = None
    looked = 0

    async def offered(self, release: Release) -> str | None:  # noqa: ARG002
        self.looked += 1
        await asyncio.sleep(0)
        if isinstance(self.offer, Exception):
            raise self.offer
        return self.offer


class MadeUpSources(Sources):
    """The tree source of a host, and made-up sources that have nothing until a test says so."""

    package: MadeUpPackages

    def __init__(self, host: Host) -> None:
        super().__init__(host, KernelModule(host, NoLoader("no module here")), host.path("apt"))
        self.package = MadeUpPackages(host, host.path("apt"))
        self.made_up = {name: MadeUpSource(name, nothing(name)) for name in self.archives}
        self.archives.update(self.made_up)

    def asked(self) -> dict[str, int]:
        """How many times each source was asked that was asked at all."""
        return {name: source.asked for name, source in self.made_up.items() if source.asked}


def nothing(name: str) -> NotFound:
    return NotFound(Reason.MISSING, f"{name} has none")


class MadeUpCaller:
    """A caller that is authorised for some actions.

    Attributes:
        asked: the actions that it was asked about.
        may_answer: set, unless a test lets polkit wait.
    """

    def __init__(self, *actions: Action, is_interactive: bool = False) -> None:
        self.actions = actions
        self.is_interactive = is_interactive
        self.asked: list[Action] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def consent(self, action: Action) -> int:
        self.asked.append(action)
        await self.may_answer.wait()
        if action not in self.actions:
            raise AccessDenied(f"you may not {action.value}")
        return 1000

    async def may(self, action: Action) -> bool:
        return action in self.actions
