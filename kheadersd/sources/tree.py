"""Headers that a package put where everybody looks: /lib/modules/<release>/{build,source}."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING

from ..headers import (
    OF_BUILD,
    OF_SOURCE,
    Unusable,
    check_usable,
    configuration,
    leads_to_automount,
    standard_directory,
)
from ..work import in_thread
from . import Nothing, Tree, Why, snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from ..host import Host
    from ..release import Release
    from . import Report

# Whoever asks for many releases that do not exist must not fill the memory.
_MAX_REMEMBERED = 64
# Nanoseconds; more than the 10 ms of a coarse kernel clock.
_RESOLUTION = 100_000_000
# For so many seconds after a walk through a tree no change is noticed.
_FRESH = 2.0
NOT_LOOKED_AT = "not looked at"
"""No tree has this identity."""

_Identity = tuple[int, int, int] | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Look:
    """What a full check found, and the state of all the files that it depends on.

    Attributes:
        links: "build" and "source" themselves, or the directory that has neither; where they lead is in
            ``files``.
        lasting: whether these tell of every change. A link that leads nowhere in an image does not: only we
            follow it below the image's root.
    """

    found: Tree | Nothing
    links: tuple[tuple[str, _Identity], ...]
    files: tuple[tuple[str, _Identity], ...]
    lasting: bool

    def is_current(self) -> bool:
        """Is in the path of every call for a tree: hence no niceties."""
        if not self.lasting:
            return False
        for path, known in self.links:
            if _identity(path, follow=False) != known:
                return False
        for path, known in self.files:  # noqa: SIM110 - a generator would take half as long again
            if _identity(path) != known:
                return False
        return True


class TreeSource:
    """Serves whole trees, and trees that a distribution splits into a source and a build part, in place."""

    name = "tree"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._looks: dict[str, _Look] = {}
        self._stamps: dict[str, tuple[float, str]] = {}

    async def find(self, release: Release, report: Report) -> Tree:
        """Check the tree of ``release``.

        Raises:
            Nothing: MISSING, DANGLING, INCOMPLETE, OTHER_RELEASE or UNREADABLE, naming the path.
        """
        report("looking", 0.0)
        look = await in_thread(_look, self._host, release)
        self._looks.pop(release, None)
        self._looks[release] = look
        if len(self._looks) > _MAX_REMEMBERED:
            del self._looks[next(iter(self._looks))]
        if isinstance(look.found, Nothing):
            raise Nothing(look.found.why, look.found.message)
        return look.found

    def present(self, release: Release) -> tuple[bool, Tree | None]:
        """The result of the last `find`, if what it depends on has not changed since; about 10 microseconds.

        Of a usable tree only kconfig.h and utsrelease.h are looked at again.

        Returns:
            Whether the answer is known, and the tree: ``(False, None)`` asks for a `find`, ``(True, None)``
            says that there is still none.
        """
        look = self._looks.get(release)
        if look is None or not look.is_current():
            return False, None
        return True, look.found if isinstance(look.found, Tree) else None

    def stamp(self, origin: str) -> str:
        """The identity of a tree that an entry was made from, as `snapshot.look` found it just now.

        `NOT_LOOKED_AT` if nobody has looked for 2 seconds: then `remember` what a thread finds.
        """
        if snapshot.is_gone(origin):
            return ""
        known = self._stamps.get(origin)
        if known is None or time.monotonic() - known[0] > _FRESH:
            return NOT_LOOKED_AT
        return known[1]

    def remember(self, origin: str, stamp: str) -> None:
        """Let `stamp` say for a while what `snapshot.look` has found now."""
        self._stamps.pop(origin, None)
        self._stamps[origin] = time.monotonic(), stamp
        if len(self._stamps) > _MAX_REMEMBERED:
            del self._stamps[next(iter(self._stamps))]


def _identity(path: str, *, follow: bool = True) -> _Identity:
    """What changes when a file is replaced, edited or removed."""
    try:
        status = os.stat(path, follow_symlinks=follow)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _absence(directory: Path) -> tuple[tuple[str, _Identity], ...]:
    """What stands for two links that are missing: no name comes without a change of the directory.

    Empty if it changed this very moment: it could change again within the resolution of its time stamp.
    """
    identity = _identity(str(directory))
    if identity is None or time.time_ns() - identity[1] < _RESOLUTION:
        return ()
    return ((str(directory), identity),)


def _look(host: Host, release: Release) -> _Look:
    """Check thoroughly. What it depends on is noted first, so that no change can fall in between."""
    directory = host.modules_directory(release)
    links = tuple(str(directory / name) for name in ("build", "source"))
    before = tuple((link, _identity(link, follow=False)) for link in links)
    if not any(identity for _, identity in before):
        before = _absence(directory) or before
    places: dict[str, Path] = {}
    dangling: list[str] = []
    files: list[str] = []
    for name in ("build", "source"):
        try:
            place = standard_directory(name, release, host)
        except OSError as error:
            dangling.append(_why_not_followed(directory / name, error))
            files.append(str(directory / name))
        else:
            if place is not None:
                places[name] = place
    pairs = _pairs(places)
    files += dict.fromkeys(str(path) for pair in pairs for path in _depends_on(pair))
    state = tuple((path, _identity(path)) for path in files)
    found = _first_usable(pairs, release) if pairs else None
    if found is None or (isinstance(found, Nothing) and dangling):
        found = _nothing(host, release, dangling)
    if isinstance(found, Tree):
        witnesses = _witnesses(found)
        state = tuple(known for known in state if known[0] in witnesses)
    return _Look(found, before, state, lasting=host.is_live or not dangling)


def _pairs(places: dict[str, Path]) -> list[Tree]:
    """What to try, as bpftrace does: each link stands for the other when that is missing.

    A build tree can be whole although "source" leads to something else.
    """
    build, source = places.get("build"), places.get("source")
    if build is None and source is None:
        return []
    tried = [Tree(source_tree=source or build, build_tree=build or source)]  # type: ignore[arg-type]
    if build is not None and source not in (None, build):
        tried.append(Tree(source_tree=build, build_tree=build))
    return tried


def _depends_on(pair: Tree) -> list[Path]:
    return [pair.source_tree / name for name in OF_SOURCE] + [pair.build_tree / name for name in OF_BUILD]


def _witnesses(tree: Tree) -> tuple[str, str]:
    """Two files that go when a package is removed and change when it is replaced; each look costs 2 µs."""
    return str(tree.source_tree / OF_SOURCE[0]), str(tree.build_tree / OF_BUILD[1])


def _first_usable(pairs: list[Tree], release: Release) -> Tree | Nothing:
    reasons: list[Unusable] = []
    for pair in pairs:
        try:
            check_usable(pair.source_tree, pair.build_tree, release)
            randomised = configuration(pair.build_tree).is_randomised
        except Unusable as reason:
            reasons.append(reason)
        else:
            return dataclasses.replace(pair, randomised=randomised)
    return Nothing(reasons[0].why, reasons[0].message)


def _nothing(host: Host, release: Release, dangling: list[str]) -> Nothing:
    if dangling:
        return Nothing(Why.DANGLING, "; ".join(dangling))
    directory = host.modules_directory(release)
    try:
        automounts = [name for name in ("build", "source") if leads_to_automount(directory / name, host)]
    except OSError:
        automounts = []
    if automounts:
        return Nothing(
            Why.MISSING, f"{directory}/{automounts[0]} only leads to what kheadersd itself provides"
        )
    return Nothing(Why.MISSING, f"there is no {directory}/build")


def _why_not_followed(link: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and link.is_symlink():
        return f"{link} leads to {os.readlink(link)}, which is not there: its headers package was removed"
    return f"{link} leads nowhere: {error.strerror}"
