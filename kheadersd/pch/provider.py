# SPDX-License-Identifier: LGPL-2.1-or-later
"""Precompiled headers on request: what may be made, and whether what is there is good."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..headers.consent import Action
from ..system.disk import Vanished
from ..system.tasks import SharedWork
from .answers import PchAnswers
from .compile import How
from .profiles import BCC
from .requests import ServedPch

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..cache.pch_files import Pch
    from ..headers.consent import Caller
    from ..release import Release
    from .compile import Compilation
    from .compilers import Compiler, Compilers
    from .header_removal import HeaderRemoval
    from .profiles import Profile, Profiles
    from .recipe import Recipe
    from .requests import Base, PchRequest
    from .store import PchStore

# An entry can be replaced between being found and being worked on.
_ATTEMPTS = 3
_NOT_AUTHORISED = (
    f"to drop them takes an authorisation ({Action.MANAGE.value}); do it as root, or ask an administrator"
)


class PchProvider:
    """Serves precompiled headers. Belongs to the event loop; compilers run in units of their own.

    Args:
        bases: what profiles are compiled from, by `Profile.base`.
    """

    def __init__(
        self,
        bases: Mapping[str, Base],
        profiles: Profiles,
        compilers: Compilers,
        store: PchStore,
        compilation: Compilation,
        header_removal: HeaderRemoval,
    ) -> None:
        self._bases = bases
        self._profiles = profiles
        self._compilers = compilers
        self._store = store
        self._compilation = compilation
        self._header_removal = header_removal
        self._answers = PchAnswers(bases, profiles, compilers, store)
        self._work = SharedWork()

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up."""
        await self._work.close()

    def ready(self, request: PchRequest) -> ServedPch | None:
        """What can be served at once, checked at this moment; tens of microseconds."""
        return self._answers.get(request)

    async def get(self, request: PchRequest, caller: Caller) -> ServedPch:
        """A precompiled header: the one that is there, if it is good, or a new one.

        Raises:
            UnknownProfile: there is none of that name.
            NotAvailable: there are no headers or types, or no such compiler.
            InvalidArgs: the compiler is not one that the daemon runs.
            CompileFailed: the compiler did not accept the headers.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not do what it takes.
            Others, as `Provider.get`.
        """
        profile = await self._profiles.find(request.profile, request.headers, request.defines)
        uid = await caller.consent(Action.MANAGE) if request.headers else None
        if request.drop_restored and request.keep_headers:
            entry = await self._bases[profile.base].find(request.release)
            were_dropped = entry is not None and not entry.has_headers
            request = dataclasses.replace(request, keep_headers=not were_dropped)
        may_drop = not request.ahead and (
            request.keep_headers or bool(request.headers) or await caller.may(Action.MANAGE)
        )
        wanted = request.compiler
        if not wanted and profile.consumer == BCC:
            # libbcc reads only what its own LLVM has compiled, and tells which that is when it has a tree.
            await self._compilation.libbcc.library()
            entry = await self._bases[profile.base].find(request.release)
            if entry is None:
                uid = await caller.consent(Action.EXTRACT) if uid is None else uid
                entry = await self._bases[profile.base].get(request.release, caller)
            wanted = (await self._compilation.libbcc_command(entry, profile)).compiler
        compiler = await self._compilers.find(wanted)
        served = await self._find(request.release, profile, compiler)
        # A caller who may not drop headers does not need those that were dropped before.
        if served is None or (may_drop and served.entry.has_headers != request.keep_headers):
            if uid is None:
                uid = await caller.consent(Action.EXTRACT)
            keep_headers = request.keep_headers or not may_drop
            made = dataclasses.replace(request, keep_headers=keep_headers)
            served = await self._make(made, profile, wanted, caller, uid)
        if request.ahead:
            return served
        if not may_drop and served.entry.has_headers:
            return dataclasses.replace(served, why_kept=_NOT_AUTHORISED)
        if not request.headers and not served.why_kept:
            self._answers.add(request, served, wanted)
        return served

    async def _find(self, release: Release, profile: Profile, compiler: Compiler) -> ServedPch | None:
        """What is there for a release, whether its headers were dropped or not.

        Raises:
            CompileFailed, NotAvailable: it is known that it does not compile.
        """
        entry = await self._bases[profile.base].find(release)
        if entry is None:
            return None
        try:
            recipe = await self._compilation.recipe(entry, profile, compiler)
        except Vanished:
            return None
        pch = await self._store.get(entry, recipe.key)
        if pch is None:
            self._compilation.check_failures(recipe)
            return None
        return _served(entry, pch, compiler, profile, recipe)

    async def _make(
        self, request: PchRequest, profile: Profile, wanted: str, caller: Caller, uid: int
    ) -> ServedPch:
        fetches = self._compilation.asks_registries and await caller.may(Action.DOWNLOAD)
        for _ in range(_ATTEMPTS):
            compiler = await self._compilers.find(wanted)
            try:
                entry = await self._bases[profile.base].get(request.release, caller)
            except KheadersError:
                # Dropped headers that no source has any more. What was made from them is still good.
                if (served := await self._find(request.release, profile, compiler)) is None:
                    raise
                return served
            # Headers, and precompiled headers in use, are removed at the word of these callers alone.
            trusted = uid in (0, os.getuid())
            make = functools.partial(
                self._make_of, entry, profile, compiler, request, trusted=trusted, fetches=fetches
            )
            try:
                return await self._work.share((entry, profile, compiler, request, trusted, fetches), make)
            except Vanished:
                continue
        raise KheadersError(
            f"the headers of {request.release}, or the compiler, were changed again and again meanwhile; "
            "ask again"
        )

    async def _make_of(
        self,
        entry: Entry,
        profile: Profile,
        compiler: Compiler,
        request: PchRequest,
        *,
        trusted: bool,
        fetches: bool,
    ) -> ServedPch:
        """The precompiled header of an entry, of which the headers are dropped if that is wanted.

        Raises:
            Vanished: the entry or the compiler was changed or removed meanwhile.
        """
        recipe = await self._compilation.recipe(entry, profile, compiler)
        is_list = bool(request.headers)
        how = How(trusted or is_list, fetches, request.ahead, is_list)
        pch: Pch | None
        pch, fresh = await self._compilation.make(entry, profile, compiler, recipe, how)
        why_kept = ""
        if not request.keep_headers:
            # Who wants them as they were before knows of no other program that was given them since.
            at_once = trusted and not request.drop_restored
            entry, why_kept = await self._header_removal.drop(entry, at_once=at_once, force=request.force)
            pch = await self._store.get(entry, recipe.key)
        if pch is None or entry.pchs.get(recipe.key) is not pch:
            raise Vanished(f"what was precompiled for {entry.release} was removed meanwhile; ask again")
        served = _served(entry, pch, compiler, profile, recipe)
        return dataclasses.replace(served, fresh=fresh, why_kept=why_kept)


def _served(entry: Entry, pch: Pch, compiler: Compiler, profile: Profile, recipe: Recipe) -> ServedPch:
    arguments = recipe.arguments(pch.path)
    return ServedPch(
        *(entry, pch, compiler, profile, arguments),
        fresh=False,
        library=recipe.library,
        library_file=recipe.library_file,
    )
