"""Everything that serves precompiled headers, with a compiler that is made up at the edge: its runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kheadersd.cache.entry import HEADERS
from kheadersd.config import Config
from kheadersd.errors import AccessDenied, NotAvailable
from kheadersd.headers.consent import Action
from kheadersd.pch.compile import Compilation
from kheadersd.pch.compiler_run import CompilerRun
from kheadersd.pch.compilers import Compiler, Compilers
from kheadersd.pch.header_removal import HeaderRemoval
from kheadersd.pch.libbcc_command import LibbccCommands
from kheadersd.pch.profiles import Profiles
from kheadersd.pch.provider import PchProvider
from kheadersd.pch.requests import Base, PchRequest
from kheadersd.pch.store import PchStore
from kheadersd.sandbox.command import Command, Finished
from tests.support.hosts import RELEASE
from tests.support.libbcc_lines import LIBRARY, LINE, InstalledLibrary
from tests.support.made_up_registry import Files

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheadersd.cache.entry import Entry
    from kheadersd.daemon.parts import Parts

UNGUARDED = "include/linux/unguarded.h"


def compiler(name: str = "clang-16", digest: str = "a") -> Compiler:
    path, major = Path("/usr/bin", name), int(name.rpartition("-")[2])
    resource = Path("/usr/lib/clang", str(major))
    return Compiler(name, path, f"{major}.0.6", major, digest * 64, resource, {}, {})


class Installed(Compilers):
    """Compilers that are installed by being put into a dictionary.

    Attributes:
        installed: by what they are called.
    """

    def __init__(self, run: Clang) -> None:
        super().__init__([], run)
        self.installed: dict[str, Compiler] = {}
        self.install(compiler())

    def install(self, *compilers: Compiler) -> None:
        """Have these alone."""
        self.installed = {name: each for each in compilers for name in ("", each.name, str(each.path))}

    async def find(self, wanted: str) -> Compiler:
        try:
            return self.installed[wanted]
        except KeyError:
            raise NotAvailable(f"there is no {wanted}") from None

    def leads_to(self, wanted: str) -> Path | None:
        return self.installed[wanted].path if wanted in self.installed else None

    def is_current(self, compiler: Compiler) -> bool:
        return compiler in self.installed.values()


class Clang:
    """A `Run` that stands for clang, and for a libbcc that has clang 19.

    Attributes:
        compiled: how many precompiled headers it was asked for.
        idle: for each of them, whether it was to run at a low priority.
        canary_idle: the same, for the last program.
        listed: how often it was asked what a precompiled header needs.
        canaries: how many programs it compiled with one.
        complaint: what is wrong with headers; "" if it compiles them.
        canary_complaint: what is wrong with programs.
        meanwhile: is called while headers are compiled.
        at_canary: is called while a program is compiled.
    """

    def __init__(self) -> None:
        self.compiled = self.listed = self.canaries = 0
        self.idle: list[bool] = []
        self.canary_idle = False
        self.complaint = self.canary_complaint = ""
        self.meanwhile: Callable[[], None] = lambda: None
        self.at_canary: Callable[[], None] = lambda: None

    async def __call__(self, command: Command) -> Finished:
        words = command.words
        if str(LIBRARY.path) in words:
            return Finished(0, "", LINE)
        tree = next(word[2:-8] for word in words if word.startswith("-I") and word.endswith("/tree/include"))
        if "c-header" in words:
            self.compiled += 1
            self.idle.append(command.idle)
            self.meanwhile()
            if self.complaint:
                return Finished(1, "", self.complaint)
            assert command.stdout is not None
            os.write(command.stdout, b"precompiled")
            return Finished(0, "", "")
        if "-M" in words:
            self.listed += 1
            return Finished(0, f"x: {tree}/{UNGUARDED} {tree}/include/linux/types.h\n", "")
        if "-H" in words:
            return Finished(1, "", f". {tree}/{UNGUARDED}\n")
        self.canaries += 1
        self.canary_idle = command.idle
        self.at_canary()
        await asyncio.sleep(0)
        return Finished(1 if self.canary_complaint else 0, "", self.canary_complaint)


class Caller:
    """A caller that is authorised for some actions.

    Attributes:
        asked: the actions that it was asked about.
    """

    is_interactive = False

    def __init__(self, *actions: Action, uid: int = 1000) -> None:
        self.asked: list[Action] = []
        self._actions = actions
        self._uid = uid

    async def consent(self, action: Action) -> int:
        self.asked.append(action)
        if action not in self._actions:
            raise AccessDenied(f"not authorised for {action.value}")
        return self._uid

    async def may(self, action: Action) -> bool:
        return action in self._actions


class Rig:
    """The parts of ``kheadersd.pch``, wired up as in the daemon."""

    def __init__(self, state: Parts, config: Config) -> None:
        self.state = state
        self.clang = Clang()
        self.compilers = Installed(self.clang)
        self.why_not_restorable = ""
        headers = state.provider
        existing = headers.existing
        bases = {
            HEADERS: Base(existing.base, existing.is_current, headers.get_entry, self._why_not_restorable)
        }
        self.profiles = Profiles(state.journal)
        run = CompilerRun(self.clang, None)
        self.store = PchStore(state.lifecycle, self.compilers, self.profiles, config.max_pchs)
        self.library = InstalledLibrary()
        libbcc = LibbccCommands(self.clang, self.library)
        self.registry = Files()
        compilation = Compilation(
            self.compilers,
            libbcc,
            self.store,
            run,
            state.progress,
            self.registry,  # type: ignore[arg-type]
        )
        self.header_removal = HeaderRemoval(bases, state.lifecycle, self.store, run, state.journal)
        self.provider = PchProvider(
            bases, self.profiles, self.compilers, self.store, compilation, self.header_removal
        )

    @property
    def entry(self) -> Entry:
        """The only entry that there is."""
        (entry,) = self.state.cache.entries()
        return entry

    def request(
        self,
        *headers: str,
        keep_headers: bool = True,
        force: bool = False,
        compiler: str = "",
        drop_restored: bool = False,
    ) -> PchRequest:
        return PchRequest(
            RELEASE, "bpf-core", headers, compiler, keep_headers, force, drop_restored=drop_restored
        )

    async def close(self) -> None:
        await self.provider.close()
        await self.header_removal.close()
        await self.compilers.close()

    async def _why_not_restorable(self, entry: Entry) -> str:  # noqa: ARG002
        return self.why_not_restorable


EVERY_USER = (Action.EXTRACT,)
MANAGER = (Action.EXTRACT, Action.MANAGE)
