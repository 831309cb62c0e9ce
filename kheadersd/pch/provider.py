"""Precompiled headers on request: finds them, has them made, and never hands out a wrong one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..cache.entry import TYPES
from ..cache.pch_files import Pch, PchRecord, PchStaging
from ..errors import Corrupt, InvalidArgs, KheadersError, NoSpace, NotAvailable, Timeout, UnknownProfile
from ..headers.consent import Action
from ..journal import Event
from ..system.disk import Vanished
from ..system.tasks import SharedWork, in_thread
from . import profiles
from .bcc_recipe import compiler_name, is_known
from .compile import compile_pch, recipe_for
from .needed_headers import canary
from .profiles import BCC
from .requests import PchRequest, ServedPch

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..config import Config
    from ..headers.consent import Caller
    from ..headers.provider import Provider
    from ..journal import Journal
    from ..progress import Progress
    from ..sandbox.command import Run
    from ..vmlinux.provider import TypesProvider
    from .compilers import Compiler, Compilers
    from .header_removal import HeaderRemoval
    from .profiles import Profile
    from .recipe import Recipe
    from .store import PchStore

# An entry can be replaced between being found and being worked on.
_ATTEMPTS = 3
_MAX_ANSWERS = 256
_FOR_EVER = 1e6  # seconds
_NOT_AUTHORISED = (
    f"to drop them takes an authorisation ({Action.MANAGE.value}); do it as root, or ask an administrator"
)
# For so many seconds a compiler is not looked at again.
_PAUSE = 0.1


class PchProvider:
    """Belongs to the event loop; what blocks is done in threads, compilers run apart."""

    def __init__(
        self,
        config: Config,
        provider: Provider,
        types: TypesProvider,
        lifecycle: Lifecycle,
        compilers: Compilers,
        store: PchStore,
        header_removal: HeaderRemoval,
        run: Run,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self._config = config
        self._provider = provider
        self._existing = provider.existing
        self._types = types
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._compilers = compilers
        self._store = store
        self._header_removal = header_removal
        self._run = run
        self._journal = journal
        self._progress = progress
        self._profiles: Mapping[str, Profile] | None = None
        self._work = SharedWork()
        self._answers: dict[PchRequest, ServedPch] = {}
        self._looked: dict[tuple[str, str], float] = {}

    def configure(self, config: Config) -> None:
        """Use other limits, for what is begun from now on."""
        self._config = config
        self._answers.clear()

    async def load_profiles(self) -> Mapping[str, Profile]:
        """Read the profiles, now and not when they are first needed."""
        found, problems = await in_thread(profiles.load, profiles.DIRECTORIES)
        for problem in problems:
            self._journal.report(Event.CONFIG_PROBLEM, problem)
        self._profiles = found
        self._answers.clear()
        return found

    async def close(self) -> None:
        """Give up all work, and wait until it has cleaned up behind itself."""
        await self._work.close()

    # What is there

    def ready(self, request: PchRequest) -> ServedPch | None:
        """What can be handed out at once, checked at this moment; tens of microseconds."""
        answer = self._answers.get(request)
        if answer is None:
            return None
        if not self._holds(answer, request):
            del self._answers[request]
            return None
        answer.pch.touch()
        used = answer.entry.last_used
        if answer.entry.touch() != used:
            answer = self._answers[request] = dataclasses.replace(answer)  # with other details
        return answer

    def _holds(self, answer: ServedPch, request: PchRequest) -> bool:
        entry, pch = answer.entry, answer.pch
        known = self._profiles.get(request.profile) if self._profiles is not None else None
        return (
            known is answer.profile
            and entry in self._cache
            and entry.pchs.get(pch.record.key) is pch
            and pch.intact()
            and entry.has_headers == request.keep_headers
            and self._is_current(entry)
            and entry.is_intact()
            and self._is_the_same(answer.compiler, answer.wanted)
            and (not answer.library or is_known(answer.library))
        )

    def _is_the_same(self, compiler: Compiler, wanted: str) -> bool:
        """Whether that still leads to the compiler, and it is what it was.

        To look at that takes as long as all else of an answer.
        """
        now = time.monotonic()
        if now - self._looked.get((compiler.digest, wanted), -_PAUSE) < _PAUSE:
            return True
        if self._compilers.leads_to(wanted) != compiler.path or not self._compilers.current(compiler):
            return False
        if len(self._looked) >= _MAX_ANSWERS:
            self._looked.clear()
        self._looked[compiler.digest, wanted] = now
        return True

    def _is_current(self, entry: Entry) -> bool:
        if entry.record.kind == TYPES:
            return self._types.ready(entry.release) is entry
        return self._existing.is_current(entry)

    async def get(self, request: PchRequest, caller: Caller) -> ServedPch:
        """A precompiled header: the one that is there, if it is good, or a new one.

        Raises:
            UnknownProfile: there is none of that name.
            NotAvailable: there are no headers or types, or no such compiler.
            InvalidArgs: the compiler is none that may be run.
            CompileFailed: the compiler did not accept the headers.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not do what it takes.
            As `Provider.get` else.
        """
        profile = await self._profile(request)
        uid = await caller.consent(Action.MANAGE) if request.headers else None
        asked, why_kept = request, ""
        if not request.keep_headers and not request.headers and not await caller.may(Action.MANAGE):
            request, why_kept = dataclasses.replace(request, keep_headers=True), _NOT_AUTHORISED
        wanted = request.compiler or await self._default_compiler(profile)
        compiler = await self._compilers.find(wanted)
        # A caller who may not drop headers does not need those that are dropped already.
        any_state = request is not asked
        served = await self._there(request, profile, compiler, any_state=any_state)
        if served is None:
            if uid is None:
                uid = await caller.consent(Action.EXTRACT)
            served = await self._made(request, profile, wanted, caller, uid)
        if why_kept and served.entry.has_headers:
            served = dataclasses.replace(served, why_kept=why_kept)
        elif not request.headers and not served.why_kept:
            if len(self._answers) >= _MAX_ANSWERS:
                self._answers.clear()
            self._answers[request] = dataclasses.replace(served, fresh=False, wanted=wanted)
        return served

    async def _profile(self, request: PchRequest) -> Profile:
        offered = await self.load_profiles() if self._profiles is None else self._profiles
        known = offered.get(request.profile)
        if known is None:
            name = request.profile if len(request.profile) <= 64 else request.profile[:64] + "…"
            raise UnknownProfile(f"there is no profile {name!r}; there are {', '.join(sorted(offered))}")
        return profiles.custom(known, request.headers) if request.headers else known

    async def _default_compiler(self, profile: Profile) -> str:
        # Only one makes what libbcc can read.
        return await in_thread(compiler_name) if profile.consumer == BCC else self._config.compiler

    async def _base(self, request: PchRequest, profile: Profile) -> Entry | None:
        if profile.base == TYPES:
            return self._types.ready(request.release)
        return await self._existing.base(request.release)

    async def _there(
        self, request: PchRequest, profile: Profile, compiler: Compiler, *, any_state: bool = False
    ) -> ServedPch | None:
        """What is in the cache, if it is as it was asked for; with ``any_state`` with or without headers."""
        entry = await self._base(request, profile)
        if entry is None or (not any_state and entry.has_headers != request.keep_headers):
            return None
        return await self._in_store(entry, profile, compiler)

    async def _in_store(self, entry: Entry, profile: Profile, compiler: Compiler) -> ServedPch | None:
        made = await self._recipe(profile, compiler, entry)
        pch = await self._store.confirmed(entry, made.key) if made is not None else None
        if made is None or pch is None:
            return None
        return _served(entry, pch, compiler, profile, made, fresh=False)

    async def _recipe(self, profile: Profile, compiler: Compiler, entry: Entry) -> Recipe | None:
        """How one is made of an entry; None if that was removed meanwhile."""
        try:
            return await in_thread(recipe_for, profile, compiler, entry)
        except Corrupt:
            if entry not in self._cache:
                return None
            raise

    # What has to be made

    async def _made(
        self, request: PchRequest, profile: Profile, wanted: str, caller: Caller, uid: int
    ) -> ServedPch:
        # Headers and precompiled headers in use are not taken away at the word of a caller who may do no more
        # than everybody.
        at_once = uid in (0, os.getuid())
        for _ in range(_ATTEMPTS):
            compiler = await self._compilers.find(wanted)
            try:
                entry = await self._make_base(request, profile, caller)
            except KheadersError:
                # Headers that had gone cannot be had again; what was made from them is still good.
                if (served := await self._without_headers(request, profile, compiler)) is None:
                    raise
                return served
            key = (entry.name, profile, compiler.digest, request.keep_headers, request.force, at_once)
            make = functools.partial(self._make, entry, profile, compiler, request, at_once)
            with contextlib.suppress(Vanished):
                if (made := await self._work.share(key, make)) is not None:
                    return made
        raise KheadersError(
            f"the headers of {request.release}, or the compiler, were changed again and again meanwhile; "
            "ask again"
        )

    async def _make(
        self, entry: Entry, profile: Profile, compiler: Compiler, request: PchRequest, at_once: bool
    ) -> ServedPch | None:
        """Make one of an entry; None if that, or the compiler, is not what it was any more."""
        made = await self._recipe(profile, compiler, entry)
        async with self._cache.locks.of(entry.name):
            if made is None or entry not in self._cache or not entry.has_headers:
                return None
            pch = await self._store.confirmed(entry, made.key)
            fresh = pch is None
            if pch is None and (pch := await self._compile(entry, profile, compiler, made)) is None:
                return None
            if fresh:
                await self._store.retire_of(entry)
                manages = at_once or bool(request.headers)
                may_go = functools.partial(self._may_go, entry, manages)
                await self._store.make_room(entry, pch, self._config.max_pchs, may_go)
        why_kept = ""
        if not request.keep_headers:
            entry, why_kept = await self._header_removal.reduce(
                entry, self._seconds, at_once=at_once, force=request.force
            )
            pch = await self._store.confirmed(entry, made.key)
        if pch is None or entry.pchs.get(made.key) is not pch:
            return None
        served = _served(entry, pch, compiler, profile, made, fresh=fresh)
        return dataclasses.replace(served, why_kept=why_kept) if why_kept else served

    def _may_go(self, entry: Entry, manages: bool, pch: Pch) -> bool:
        """Whether a precompiled header may make room for another.

        Args:
            manages: whether the caller may manage the cache. The request of one who may not takes none away
                that was used within the last hour, is leased, or is of a list of headers of a caller's own,
                which not every user can have made again; so there are for a while as many as profiles and
                compilers.
        """
        known = (self._profiles or {}).get(pch.record.profile)
        is_everybodys = known is not None and known.headers == pch.record.headers
        is_leased = self._lifecycle.leases.held(entry.name)
        return manages or (is_everybodys and not pch.is_in_use() and not is_leased)

    async def _make_base(self, request: PchRequest, profile: Profile, caller: Caller) -> Entry:
        if profile.base == TYPES:
            return (await self._types.get(request.release, caller)).entry
        return await self._provider.get_entry(request.release, caller)

    async def _without_headers(
        self, request: PchRequest, profile: Profile, compiler: Compiler
    ) -> ServedPch | None:
        entry = await self._base(request, profile)
        return None if entry is None else await self._in_store(entry, profile, compiler)

    async def _compile(self, entry: Entry, profile: Profile, compiler: Compiler, made: Recipe) -> Pch | None:
        """Make one; the entry's lock is held. None if it or the compiler was changed meanwhile."""
        started = time.monotonic()

        def keep(pch: Pch) -> None:
            # Even if nobody waits for it any more: it is in the cache.
            self._store.added(entry, pch, time.monotonic() - started)

        stagings: list[PchStaging] = []
        try:
            with self._progress.of(entry.release, "pch") as report:
                report("compile", 0.0)
                staging = await in_thread(PchStaging, self._cache.directory, keep=stagings.append)
                try:
                    await compile_pch(self._run, made, compiler, entry, staging.file, self._seconds)
                except KheadersError as error:
                    # It says nothing if a part of the headers, or the compiler, was removed meanwhile.
                    if isinstance(error, NoSpace | Timeout) or await self._is_unchanged(entry, compiler):
                        raise
                    return None
                if not await self._is_unchanged(entry, compiler):
                    return None
                pch = await in_thread(_publish, staging, entry, profile, compiler, made, keep=keep)
        finally:
            for staging in stagings:
                await in_thread(staging.close)
        return pch

    async def _is_unchanged(self, entry: Entry, compiler: Compiler) -> bool:
        """Whether what was compiled is what the key says, and by what the key says."""
        try:
            now = await self._compilers.find(str(compiler.path))
        except (NotAvailable, InvalidArgs):
            return False
        return now.digest == compiler.digest and entry.is_intact()

    @property
    def _seconds(self) -> float:
        return self._config.compile_timeout or _FOR_EVER

    # What is not valid any more

    async def retire(self) -> None:
        """Remove what was made by compilers that have been upgraded or removed since."""
        await self._store.retire()


def _publish(staging: PchStaging, entry: Entry, profile: Profile, compiler: Compiler, made: Recipe) -> Pch:
    sha256, size = staging.measure()
    record = PchRecord(
        key=made.key,
        profile=profile.name,
        headers=profile.headers,
        compiler=str(compiler.path),
        compiler_version=compiler.version,
        compiler_digest=compiler.digest,
        text=made.text,
        backend=made.backend,
        source=made.source.decode(),
        canary=canary(profile),
        library=made.library,
        sha256=sha256,
        bytes=size,
        made_at=time.time_ns() // 1000,
    )
    return staging.publish(entry.directory, record, made.prefix)


def _served(
    entry: Entry, pch: Pch, compiler: Compiler, profile: Profile, made: Recipe, *, fresh: bool
) -> ServedPch:
    return ServedPch(entry, pch, compiler, profile, made.arguments(pch.path), fresh, made.library)
