# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a recipe to a precompiled header in the store."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from typing import TYPE_CHECKING

from ..cache.entry import HEADERS
from ..cache.pch_files import NAME, Pch, PchRecord, PchStaging
from ..errors import CompileFailed, Corrupt, InvalidArgs, KheadersError, NoSpace, NotAvailable, Timeout
from ..formats import oci
from ..host.architecture import of_machine
from ..sources.build_tree import Unusable, architecture, configuration
from ..sources.source import NotFound, Reason
from ..system.disk import Vanished
from ..system.tasks import closed_at_end, in_thread
from .bcc_recipe import bcc_recipe, lacking_names
from .canary import canary, compile_canary
from .compiler_run import FIRST_LINES, failure
from .profiles import BCC
from .recipe import clang_recipe

if TYPE_CHECKING:
    from pathlib import Path

    from ..cache.entry import Entry
    from ..progress import Progress
    from ..sources.registry_files import RegistryFiles
    from .compiler_run import CompilerRun
    from .compilers import Compiler, Compilers
    from .libbcc_command import LibbccCommand, LibbccCommands
    from .profiles import Profile
    from .recipe import Recipe
    from .store import PchStore

_NO_ROOM = os.strerror(errno.ENOSPC)
_MAGIC = b"CPCH"
"""The first bytes of a precompiled header (clang's SerializedDiagnostics and ASTWriter.cpp, WriteAST)."""

_MAX_FAILURES = 64
_REMEMBERED = 600.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class How:
    """How a precompiled header is made.

    Attributes:
        manages: whether the caller may manage the cache, see `PchStore.make_room`.
        fetches: whether registries are asked first for what another host compiled.
        idle: whether it is compiled at a low priority.
        is_list: whether the headers are a caller's own list, as that of a tool.
    """

    manages: bool
    fetches: bool
    idle: bool
    is_list: bool


class Compilation:
    """Compiles headers, or fetches the result, for one precompiled header of an entry at a time.

    Belongs to the event loop.

    Attributes:
        libbcc: tells how bcc compiles.
    """

    def __init__(
        self,
        compilers: Compilers,
        libbcc: LibbccCommands,
        store: PchStore,
        run: CompilerRun,
        progress: Progress,
        registry: RegistryFiles,
    ) -> None:
        self._reports = store.lifecycle.reports
        self._cache = store.lifecycle.cache
        self._compilers = compilers
        self.libbcc = libbcc
        self._store = store
        self._run = run
        self._progress = progress
        self._registry = registry
        self._failures: dict[str, tuple[float, KheadersError]] = {}

    @property
    def asks_registries(self) -> bool:
        """Whether `make` can fetch anything."""
        return self._registry.is_configured

    async def recipe(self, entry: Entry, profile: Profile, compiler: Compiler) -> Recipe:
        """The recipe for a precompiled header of an entry.

        Raises:
            NotAvailable: the compiler or the architecture is not supported, or the kernel is a 32-bit one.
            Corrupt: the headers are of no architecture.
            Vanished: the entry was removed meanwhile.
        """
        try:
            command = await self.libbcc_command(entry, profile) if profile.consumer == BCC else None
            return await in_thread(_recipe, profile, compiler, entry, command)
        except (Corrupt, NotAvailable):
            if entry in self._cache:
                raise
            raise _vanished(entry) from None

    async def libbcc_command(self, entry: Entry, profile: Profile) -> LibbccCommand:
        """How the installed libbcc compiles for the kernel of an entry.

        Raises:
            NotAvailable: libbcc is not installed, or cannot be used, or the architecture is not supported.
            Timeout: it does not answer.
            Corrupt: the headers are of no architecture.
        """
        return await self.libbcc.ask(profile.flags, entry.path, await in_thread(_architecture, entry))

    def check_failures(self, recipe: Recipe) -> None:
        """
        Raises:
            CompileFailed, NotAvailable: a caller's list of headers did not compile in the last ten minutes.
                A tool asks at each start, and would have them compiled each time.
        """
        failed_at, error = self._failures.get(recipe.key, (-_REMEMBERED, None))
        if error is not None and time.monotonic() - failed_at < _REMEMBERED:
            raise error.reworded(error.message)

    async def make(
        self,
        entry: Entry,
        profile: Profile,
        compiler: Compiler,
        recipe: Recipe,
        how: How,
    ) -> tuple[Pch, bool]:
        """The precompiled header of a recipe, and whether it is a new one.

        Raises:
            CompileFailed: the compiler did not accept the headers, or needed too much.
            NotAvailable: libbcc is too old for the headers.
            NoSpace, Timeout: as they say.
            Vanished: the entry or the compiler was changed or removed meanwhile.
        """
        async with self._cache.locks.of(entry.name):
            if entry not in self._cache or not entry.has_headers:
                raise _vanished(entry)
            if (known := await self._store.get(entry, recipe.key)) is not None:
                return known, False
            pch = await self._compile(entry, profile, compiler, recipe, how)
            await self._store.make_room(entry, pch, manages=how.manages)
            return pch, True

    async def _compile(
        self,
        entry: Entry,
        profile: Profile,
        compiler: Compiler,
        recipe: Recipe,
        how: How,
    ) -> Pch:
        started = time.monotonic()

        def keep(pch: Pch) -> None:
            # Also if every caller has left: it is in the cache.
            self._store.add(entry, pch, time.monotonic() - started)

        with self._progress.of(entry.release, "pch") as report:
            async with closed_at_end(PchStaging, self._cache.directory) as staging:
                origin = ""
                if how.fetches:
                    report("fetch", 0.0)
                    origin = await self._fetch(staging, entry, profile, compiler, recipe, idle=how.idle)
                report("compile", 0.0)
                try:
                    if not origin:
                        await compile_headers(self._run, recipe, compiler, entry, staging.file, idle=how.idle)
                except (NoSpace, Timeout):
                    raise
                except KheadersError as error:
                    # It means nothing if some of the headers, or the compiler, were removed meanwhile.
                    await self._check_unchanged(entry, compiler)
                    if how.is_list and isinstance(error, CompileFailed | NotAvailable):
                        self._remember(recipe, error)
                    raise
                await self._check_unchanged(entry, compiler)
                return await in_thread(_publish, staging, entry, profile, compiler, recipe, origin, keep=keep)

    def _remember(self, recipe: Recipe, error: KheadersError) -> None:
        self._failures.pop(recipe.key, None)
        if len(self._failures) >= _MAX_FAILURES:
            del self._failures[next(iter(self._failures))]  # the oldest
        self._failures[recipe.key] = time.monotonic(), error.reworded(error.message)  # without its traceback

    async def _fetch(
        self,
        staging: PchStaging,
        entry: Entry,
        profile: Profile,
        compiler: Compiler,
        recipe: Recipe,
        *,
        idle: bool,
    ) -> str:
        """Fetch what would be compiled, and return its origin; "" if it has to be compiled here.

        A program was compiled with it then: what is damaged crashes a compiler, or worse.
        """
        try:
            origin = await self._registry.fetch(oci.PCH, recipe.key, staging.file)
            pch = await in_thread(_fetched, staging, entry, profile, compiler, recipe, origin)
            await compile_canary(self._run, pch, entry, idle=idle)
        except (NotFound, KheadersError) as error:
            is_missing = isinstance(error, NotFound) and error.reason is Reason.MISSING
            self._reports.on_pch_not_fetched(entry, profile.name, error.message, is_failure=not is_missing)
            await in_thread(staging.clear)
            return ""
        return origin

    async def _check_unchanged(self, entry: Entry, compiler: Compiler) -> None:
        """Check that the headers and the compiler are those in the key.

        Raises:
            Vanished: they are not.
        """
        try:
            now = await self._compilers.find(str(compiler.path))
        except (NotAvailable, InvalidArgs):
            raise _vanished(entry) from None
        if now.digest != compiler.digest or not entry.is_intact():
            raise _vanished(entry)


async def compile_headers(
    run: CompilerRun, recipe: Recipe, compiler: Compiler, entry: Entry, file: int, *, idle: bool = False
) -> None:
    """Compile the headers of a recipe.

    Args:
        file: a descriptor of the file that the result is written to.
        idle: whether the compiler runs at a low priority.

    Raises:
        CompileFailed: the compiler did not accept them, or needed too much; with its first lines.
        NotAvailable: the library that programs are compiled with is too old for them.
        NoSpace: there was no room for the result.
        Timeout: it took too long.
    """
    finished = await run(str(compiler.path), recipe.build, entry, recipe.source, stdout=file, idle=idle)
    if _NO_ROOM in finished.stderr:
        raise NoSpace(
            f"the file system of the cache became full while the headers of {entry.release} were compiled: "
            "make room there, or remove cached headers"
        )
    if finished.status or not os.fstat(file).st_size:
        if recipe.library and (reason := await in_thread(_why_too_old, finished.stderr, entry)):
            raise NotAvailable(reason)
        raise failure(finished, f"{compiler.path} cannot compile the headers of {entry.release}")


def precompilable(tree: Path, release: str) -> str:
    """The kernel's name of the architecture of headers that something can be precompiled from.

    Raises:
        NotAvailable: they are of a 32-bit kernel.
        Unusable: as `architecture`.
    """
    if not configuration(tree).is_64bit:
        raise NotAvailable(
            f"{release} is a 32-bit kernel (its autoconf.h does not set CONFIG_64BIT), and programs for BPF "
            "are 64-bit: its headers give them other structures than the kernel has, so nothing is "
            "precompiled from them. GetHeaders serves them"
        )
    return architecture(tree)


def _recipe(profile: Profile, compiler: Compiler, entry: Entry, command: LibbccCommand | None) -> Recipe:
    told = profile, compiler, entry.path, entry.record.digest, _architecture(entry)
    return clang_recipe(*told) if command is None else bcc_recipe(*told, command)


def _architecture(entry: Entry) -> str:
    """The kernel's name of it."""
    if entry.record.kind != HEADERS:
        return of_machine(os.uname().machine)  # types do not tell it
    try:
        return precompilable(entry.path, entry.release)
    except Unusable as unusable:
        raise Corrupt(unusable.message) from None


def _why_too_old(complaints: str, entry: Entry) -> str:
    """Why libbcc is too old for the headers that it does not compile; "" if it is for another reason."""
    library, lacking = lacking_names(complaints, entry.path)
    if not lacking:
        return ""
    names = ", ".join(lacking[:FIRST_LINES])
    return (
        f"{library} is too old for the kernel {entry.release}: its own bpf.h, which takes the place "
        f"of the kernel's, lacks {names}. Install a newer bcc, or take a profile with fewer headers"
    )


def _fetched(
    staging: PchStaging, entry: Entry, profile: Profile, compiler: Compiler, recipe: Recipe, origin: str
) -> Pch:
    """A precompiled header that was fetched, where programs can be compiled with it, if it may be one.

    Raises:
        Corrupt: it is none of clang's.
    """
    if os.pread(staging.file, len(_MAGIC), 0) != _MAGIC:
        raise Corrupt(f"the file in {origin} is no precompiled header of clang's")
    staging.add_files(recipe.prefix)
    record = _record(staging, profile, compiler, recipe, origin)
    # What is beside it is not there yet where it will be.
    beside = f"{entry.directory / 'pch' / recipe.key}/"
    text = tuple(
        str(staging.path / item.removeprefix(beside)) if item.startswith(beside) else item
        for item in record.text
    )
    return Pch(dataclasses.replace(record, text=text), staging.path / NAME)


def _publish(
    staging: PchStaging, entry: Entry, profile: Profile, compiler: Compiler, recipe: Recipe, origin: str
) -> Pch:
    record = _record(staging, profile, compiler, recipe, origin)
    return staging.publish(entry.directory, record, recipe.prefix)


def _record(
    staging: PchStaging, profile: Profile, compiler: Compiler, recipe: Recipe, origin: str
) -> PchRecord:
    sha256, size = staging.measure()
    return PchRecord(
        key=recipe.key,
        profile=profile.name,
        headers=profile.headers,
        compiler=str(compiler.path),
        compiler_version=compiler.version,
        compiler_digest=compiler.digest,
        text=recipe.text,
        backend=recipe.backend,
        source=recipe.source.decode(),
        canary=canary(profile),
        library=recipe.library,
        sha256=sha256,
        bytes=size,
        made_at=time.time_ns() // 1000,
        origin=origin,
    )


def _vanished(entry: Entry) -> Vanished:
    return Vanished(
        f"the headers of {entry.release}, or the compiler, were changed or removed meanwhile; ask again"
    )
