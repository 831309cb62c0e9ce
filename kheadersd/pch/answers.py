# SPDX-License-Identifier: LGPL-2.1-or-later
"""Remembers what was served, and serves it again without a thread, in tens of microseconds."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from .libbcc import LIBBCC

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .compilers import Compiler, Compilers
    from .profiles import Profiles
    from .requests import Base, PchRequest, ServedPch
    from .store import PchStore

_MAX_ANSWERS = 256
# For so many seconds a compiler is not looked at again: that takes as long as all else of an answer.
_PAUSE = 0.1


class PchAnswers:
    """Answers by requests. Belongs to the event loop."""

    def __init__(
        self, bases: Mapping[str, Base], profiles: Profiles, compilers: Compilers, store: PchStore
    ) -> None:
        self._bases = bases
        self._profiles = profiles
        self._compilers = compilers
        self._store = store
        self._answers: dict[PchRequest, ServedPch] = {}
        self._looked: dict[tuple[str, str], float] = {}

    def add(self, request: PchRequest, served: ServedPch, wanted: str) -> None:
        """Serve this for that request from now on, as long as it is good.

        Args:
            wanted: what the compiler was called: a name, a path, or "" for the default.
        """
        if len(self._answers) >= _MAX_ANSWERS:
            self._answers.clear()
        self._answers[request] = dataclasses.replace(served, fresh=False, wanted=wanted)

    def get(self, request: PchRequest) -> ServedPch | None:
        """The answer to a request, checked at this moment; None if there is none that is good."""
        answer = self._answers.get(request)
        if answer is None:
            return None
        if not self._is_good(answer, request):
            del self._answers[request]
            return None
        if self._store.touch(answer.entry, answer.pch):
            answer = self._answers[request] = dataclasses.replace(answer)  # with other details
        return answer

    def _is_good(self, answer: ServedPch, request: PchRequest) -> bool:
        entry, profile = answer.entry, answer.profile
        return (
            self._profiles.known(request.profile) is profile
            and entry.has_headers == request.keep_headers
            and self._store.has(entry, answer.pch)
            and self._bases[profile.base].is_current(entry)
            and self._is_unchanged(answer.compiler, answer.wanted)
            and (not answer.library or LIBBCC.is_known(answer.library))
        )

    def _is_unchanged(self, compiler: Compiler, wanted: str) -> bool:
        """Whether the name or path still leads to the compiler, and that has not changed."""
        now = time.monotonic()
        key = (compiler.digest, wanted or self._compilers.default)
        if now - self._looked.get(key, -_PAUSE) < _PAUSE:
            return True
        if self._compilers.leads_to(wanted) != compiler.path or not self._compilers.is_current(compiler):
            return False
        if len(self._looked) >= _MAX_ANSWERS:
            self._looked.clear()
        self._looked[key] = now
        return True
