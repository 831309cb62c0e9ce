# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers that a package put where programs look: /lib/modules/<release>/{build,source}, or in /usr/src."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ..host.automount import leads_to_automount, real_directory
from ..names import TREE
from ..system.file_identity import FileIdentity, Identities, identities_at, identity_at, identity_of
from ..system.files import read_start
from ..system.printable import has_controls, printable, quoted
from ..system.tasks import in_thread
from . import tree_copy
from .build_tree import OF_SOURCE, Unusable, configuration
from .source import NotFound, Reason, Tree
from .usable import VERSION_H, change_indicators, check_inside, check_usable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from .source import Archive, Limits

# Requests for many releases that do not exist must not fill the memory.
_MAX_REMEMBERED = 64
# Nanoseconds; more than the 10 ms of a coarse kernel clock.
_RESOLUTION = 100_000_000
_SECOND = 1_000_000_000
_FOR_A_DIRECTORY = 3
# For so many seconds after a walk through a tree no change is noticed.
_FRESH = 2.0
# Headers of a kernel whose modules are elsewhere, or not there: in a container, in WSL, on Gentoo.
_WITHOUT_LINK = ("usr/src/linux-headers-{}", "usr/src/kernels/{}", "usr/src/linux-{}")
# In the Makefile of what was built elsewhere than where its sources are: O=, and Debian's packages.
_SOURCES = re.compile(rb"^include (/[^\n]*)/Makefile$", re.MULTILINE)
_MAX_MAKEFILE = 64 * 1024
_MAX_STATED = 4
NOT_IDENTIFIED = "not identified"
"""No tree has this identity."""


T = TypeVar("T")


class _Refusal(NamedTuple):
    """Why a place has no usable tree."""

    reason: Reason
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What a full check found, and the state of all the files that it depends on.

    Attributes:
        tree: the tree that is usable; None if there is none.
        refusals: why not, of each place that was looked at; the first is the one that is meant.
        links: "build" and "source" themselves, and what stands for those that are missing, see
            `_in_few_looks`; where they lead is in ``files``.
        lasting: whether these tell of every change. A link that leads nowhere in an image does not: only the
            daemon follows it below the image's root.
    """

    tree: Tree | None
    refusals: tuple[_Refusal, ...]
    links: tuple[tuple[str, FileIdentity | None], ...]
    files: tuple[tuple[str, FileIdentity | None], ...]
    lasting: bool

    def is_current(self) -> bool:
        """Whether all files are as they were; written for speed, as each call for a tree takes it."""
        if not self.lasting:
            return False
        for path, known in self.links:
            if identity_at(path, follow=False) != known:
                return False
        for path, known in self.files:  # noqa: SIM110 - a generator would take half as long again
            if identity_at(path, follow=True) != known:
                return False
        return True


class TreeSource:
    """Serves whole trees, and trees that a distribution splits into a source and a build part, in place."""

    name = TREE

    def __init__(self, host: Host) -> None:
        self._host = host
        self._looks: dict[str, Look] = {}
        self._stamps: dict[str, tuple[float, str]] = {}

    async def find(self, release: Release, report: Report) -> Tree:
        """Check the tree of ``release``.

        Raises:
            NotFound: MISSING, DANGLING, INCOMPLETE, OTHER_RELEASE or UNREADABLE, naming the path.
        """
        report("looking", 0.0)
        look = await in_thread(_look, self._host, release)
        _remember(self._looks, release, look)
        if look.tree is None:
            message = "; ".join(dict.fromkeys(refusal.message for refusal in look.refusals))
            raise NotFound(look.refusals[0].reason, message)
        return look.tree

    def last_look(self, release: Release) -> Look | None:
        """What the last `find` saw; None if what that depends on has changed since. Some 20 microseconds.

        Of a usable tree only what `change_indicators` names is looked at again, not all that was checked.
        """
        look = self._looks.get(release)
        return look if look is not None and look.is_current() else None

    async def identify(self, release: Release, origin: str, limits: Limits) -> str:
        """As `tree_copy.identity`; `stamp` returns it for 2 seconds."""
        cancelled = threading.Event()
        work = (self._host, release, origin, limits, cancelled)
        identity = await in_thread(tree_copy.identity, *work, cancelled=cancelled)
        self.remember(origin, identity)
        return identity

    async def archive(self, release: Release, tree: Tree, limits: Limits) -> Archive:
        """The tree as an archive, see `tree_copy.snapshot`."""
        cancelled = threading.Event()
        work = (self._host, release, tree, limits, cancelled)
        return await in_thread(tree_copy.snapshot, *work, cancelled=cancelled)

    def stamp(self, origin: str) -> str:
        """The identity of a tree that an entry was copied from, "" if it is gone.

        `NOT_IDENTIFIED` if the last `identify` was more than 2 seconds ago.
        """
        if tree_copy.is_gone(origin):
            return ""
        known = self._stamps.get(origin)
        if known is None or time.monotonic() - known[0] > _FRESH:
            return NOT_IDENTIFIED
        return known[1]

    def remember(self, origin: str, stamp: str) -> None:
        """Let `stamp` return this for 2 seconds."""
        _remember(self._stamps, origin, (time.monotonic(), stamp))


def _remember(known: dict[str, T], key: str, value: T) -> None:
    known.pop(key, None)
    known[key] = value
    if len(known) > _MAX_REMEMBERED:
        del known[next(iter(known))]


def _in_few_looks(links: Identities) -> Identities:
    """What tells of the same changes, as each call for a release takes it.

    A name stays missing as long as the first directory on its way does, and no name comes without a change
    of the directory that it comes to.
    """
    few: Identities = {path: identity for path, identity in links.items() if identity is not None}
    missing: dict[str, set[str]] = {}
    for path in links.keys() - few.keys():
        first = _first_missing(path)
        missing.setdefault(os.path.dirname(first), set()).add(first)  # noqa: PTH120 - these are strings
    for directory, names in missing.items():
        identity = _identity_if_settled(directory) if _is_worth_a_directory(names) else None
        if identity is not None and all(map(_is_missing, names)):
            few.setdefault(directory, identity)
        else:
            few = dict.fromkeys(names) | few
    return few


def _is_worth_a_directory(names: Collection[str]) -> bool:
    """Whether to look at a directory for names in it: other names come to /run and /usr/src as well."""
    return len(names) >= _FOR_A_DIRECTORY or all(path.endswith(("/build", "/source")) for path in names)


def _first_missing(path: str) -> str:
    """The first of the directories on the way to ``path`` that is missing; ``path`` if none is."""
    names = path.split("/")
    ways = ("/".join(names[:end]) for end in range(2, len(names)))
    return next(filter(_is_missing, ways), path)


def _is_missing(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there
        return False
    return False


def _identity_if_settled(directory: str) -> FileIdentity | None:
    """The identity of a directory, from which it can be told whether a name comes to it.

    None if it changed this very moment: it could change again within the resolution of its time stamp.
    """
    try:
        status = os.lstat(directory)
    except OSError:
        return None
    # Some file systems count whole seconds: ext4 with small inodes, NFS.
    resolution = _RESOLUTION if status.st_ctime_ns % _SECOND else 2 * _SECOND
    if not stat.S_ISDIR(status.st_mode) or time.time_ns() - status.st_ctime_ns < resolution:
        return None
    return identity_of(status)


def _look(host: Host, release: Release) -> Look:
    """Check thoroughly; blocking, some 0.1 s for a usable tree."""
    return _Search(host, release).run()


class _Search:
    """One search for the tree of a release.

    What the result depends on is noted before it is looked at, so that no change falls in between.
    """

    def __init__(self, host: Host, release: Release) -> None:
        self._host = host
        self._release = release
        self._directory = host.modules_directory(release)
        self._others = host.modules_directories(release)[1:]
        self._links: Identities = {}
        self._elsewhere: Identities = {}
        self._files: Identities = {}
        self._refusals: list[_Refusal] = []
        self._to_automount: Path | None = None

    def run(self) -> Look:
        self._note_links()
        for pairs in self._candidates():
            tree = self._first_usable(pairs)
            if tree is not None:
                if tree.source_tree == tree.build_tree:
                    self._links.pop(f"{tree.build_tree}/source", None)
                files = {str(path) for path in change_indicators(tree.source_tree, tree.build_tree)}
                return self._result(tree, {path: self._files.get(path) for path in files})
        if not self._refusals:
            self._refusals.append(self._why_missing())
        return self._result(None, self._files)

    def _result(self, tree: Tree | None, files: Identities) -> Look:
        # Below an image's root, a link that leads nowhere can come to lead somewhere without a change that
        # the kernel's own stat(2) sees.
        dangling = any(refusal.reason is Reason.DANGLING for refusal in self._refusals)
        lasting = self._host.is_live or not dangling
        if tree is None:
            self._links |= self._elsewhere
        refusals, links = tuple(self._refusals), _in_few_looks(self._links)
        return Look(tree, refusals, tuple(links.items()), tuple(files.items()), lasting)

    def _note_links(self) -> None:
        self._links = identities_at(self._directory / name for name in ("build", "source"))
        first, *others = self._host.modules_places(self._release)
        if first != self._directory or first.is_symlink():
            self._note_link(first)
        self._elsewhere = identities_at(others)

    def _note_link(self, path: Path) -> None:
        self._links.setdefault(str(path), identity_at(str(path), follow=False))

    def _candidates(self) -> Iterator[list[Tree]]:
        """The pairs of trees to try, the first of which is the one that is meant."""
        for directory in (self._directory, *self._others):
            build = self._real(directory / "build")
            source = self._real(directory / "source")
            if build is not None or source is not None:
                yield self._pairs(build or source, source or build)  # type: ignore[arg-type]
        for name in _WITHOUT_LINK:
            path = self._host.path(name.format(self._release))
            self._note_link(path)
            place = self._real(path)
            if place is not None:
                yield self._pairs(place, place)

    def _pairs(self, build: Path, source: Path) -> list[Tree]:
        """What to try for a build tree and what is said to be its sources.

        A build tree can be whole although "source" leads to something else. Where it is not, it says itself
        where its sources are.
        """
        pairs = [Tree(source, build), Tree(build, build)]
        self._note_link(build / "source")
        # Beside it, in nixpkgs' kernel.dev.
        stated = [build / "source", *([build.with_name("source")] if build.name == "build" else [])]
        self._note(str(build / "Makefile"))
        with contextlib.suppress(OSError):
            text = read_start(self._host.inside(build / "Makefile"), _MAX_MAKEFILE)
            stated += (self._host.path(os.fsdecode(path)) for path in _SOURCES.findall(text))
        for path in stated[:_MAX_STATED]:
            place = self._real(path)
            if place is not None:
                pairs.append(Tree(place, build))
        return list(dict.fromkeys(pairs))

    def _real(self, path: Path) -> Path | None:
        """As `real_directory`; why it leads nowhere is noted."""
        self._note_link(path)
        try:
            # Even a stat(2) through the automount waits for the mount, which waits for this daemon.
            if leads_to_automount(path, self._host):
                self._to_automount = self._to_automount or path
                return None
            if self._links.get(str(path)) is not None:
                self._note(str(path))
            return real_directory(path, self._host)
        except OSError as error:
            # Fedora's "source" leads to "build", which was said to lead nowhere.
            if not (self._refusals and path.is_symlink() and str(path.readlink()) == "build"):
                self._refusals.append(_Refusal(Reason.DANGLING, _why_not_followed(path, error)))
            return None

    def _note(self, *paths: str) -> None:
        for path in paths:
            self._files.setdefault(path, identity_at(path, follow=True))

    def _first_usable(self, pairs: list[Tree]) -> Tree | None:
        refusals: list[tuple[bool, int, _Refusal]] = []
        for pair in pairs:
            try:
                self._check(pair)
                randomised = configuration(pair.build_tree).is_randomised
            except Unusable as error:
                self._note(*error.places)
                # What is wrong with a tree of sources tells more than that another tree is none.
                is_none = not (pair.source_tree / OF_SOURCE[0]).exists()
                refusals.append((is_none, len(refusals), _Refusal(error.reason, error.message)))
            else:
                return dataclasses.replace(pair, randomised=randomised)
        self._refusals.append(min(refusals)[2])
        return None

    def _check(self, pair: Tree) -> None:
        for tree in (pair.source_tree, pair.build_tree):
            if has_controls(str(tree)):
                raise Unusable(
                    Reason.UNREADABLE,
                    f"{quoted(str(tree))} cannot be served: no caller could be told its name, which is not "
                    "UTF-8 or has control characters",
                )
        if not self._host.is_live:
            check_inside(self._host.root, pair.source_tree, pair.build_tree)
        self._note(*(str(pair.source_tree / name) for name in OF_SOURCE), str(pair.build_tree / VERSION_H))
        self._note(*(str(path) for path in change_indicators(pair.source_tree, pair.build_tree)))
        check_usable(pair.source_tree, pair.build_tree, self._release)

    def _why_missing(self) -> _Refusal:
        if self._to_automount is not None:
            message = f"{self._to_automount} only leads to what kheadersd itself provides"
            return _Refusal(Reason.MISSING, message)
        others = ", ".join(f"/{name.format(self._release)}" for name in _WITHOUT_LINK)
        return _Refusal(Reason.MISSING, f"there is no {self._directory}/build, and none of {others}")


def _why_not_followed(link: Path, error: OSError) -> str:
    name = printable(str(link))
    if isinstance(error, FileNotFoundError) and link.is_symlink():
        target = printable(str(link.readlink()), 200)
        return f"{name} leads to {target}, which is not there: the package with the headers is not installed"
    return f"{name} leads nowhere: {error.strerror}"
