# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether programs compile with a tree of headers, as far as its files tell: no compiler is needed for it."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.files import UnfitFile, read_start
from ..system.printable import printable
from .build_tree import (
    AUTOCONF,
    OF_BUILD,
    OF_SOURCE,
    UTSRELEASE,
    Unusable,
    architecture,
    configuration,
    include_directories,
    unreadable,
)
from .includes import Missing, check_included
from .source import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..release import Release

OF_EACH_PROGRAM = ("linux/sched.h", "linux/ptrace.h", "uapi/linux/bpf.h")
"""What tracing programs include; some 500 headers in all."""

VERSION_H = "include/generated/uapi/linux/version.h"
"""The version of the sources that were built."""

OF_ARCHIVES = ("linux/spinlock.h", "uapi/linux/ptrace.h")
"""Enough to notice that a part of an archive is missing, at a third of the cost."""

_MAX_LINKS_AND_DIRECTORIES = 100_000  # a tree has some 500; Ubuntu's some 100 links
_MAX_START = 64 * 1024  # what is looked for in a file is in its first lines
_UTS_RELEASE = re.compile(rb'^[ \t]*#[ \t]*define[ \t]+UTS_RELEASE[ \t]+"([^"\n]*)"', re.MULTILINE)
_WRAPPERS = ("generated/asm", "generated/uapi/asm")
_VERSION_MACRO = re.compile(
    rb"^#define LINUX_VERSION_(CODE|MAJOR|PATCHLEVEL|SUBLEVEL) ([0-9]{1,9})\b", re.MULTILINE
)
_MAKE_VARIABLE = re.compile(
    rb"^(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION)[ \t]*:?=[ \t]*+([0-9]{1,9}|-\S*|)[ \t\r]*$", re.MULTILINE
)
_CONFIGURED = re.compile(rb"^ \* Linux/\S+ ([0-9]{1,9})\.([0-9]{1,9})\S* Kernel Configuration", re.MULTILINE)
_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?(-rc[0-9]+)?")
_CANDIDATE = re.compile(r"-rc[0-9]+")


def check_usable(
    source_tree: Path, build_tree: Path, release: Release, included: Iterable[str] = OF_EACH_PROGRAM
) -> None:
    """Check that programs for ``release`` compile with two trees, which are equal for a whole one.

    Blocking: some 50 ms. What it reads has to be where it may be read: see `check_inside`.

    Args:
        included: the headers whose own includes are followed, those of them that are there.

    Raises:
        Unusable: a needed header is missing, empty or no file; UTS_RELEASE is another kernel's; the
            configuration is of no architecture, or what was generated is of another one; the sources are of
            another version than what was generated from them.
    """
    for tree, names in ((source_tree, OF_SOURCE), (build_tree, OF_BUILD)):
        for name in names:
            _check_file(tree / name)
    utsrelease = build_tree / UTSRELEASE
    found = _UTS_RELEASE.search(_read_optional(utsrelease))
    if found is None:
        raise Unusable(Reason.INCOMPLETE, f"{utsrelease} does not define UTS_RELEASE")
    if found[1] != release.encode():
        theirs = printable(found[1], 80)
        raise Unusable(Reason.OTHER_RELEASE, f"{utsrelease} is of kernel {theirs}, not of {release}")
    arch = architecture(build_tree)
    _check_architecture(source_tree, build_tree, arch)
    _check_version(source_tree, build_tree, release)
    if arch != "um":  # its programs include headers of the machine that it runs on
        _check_included(source_tree, build_tree, arch, included)


def check_inside(root: Path, source_tree: Path, build_tree: Path) -> None:
    """Check that no header of two trees leads out of ``root``; blocking, some 30 ms.

    Links are followed as a compiler of this machine does it, for which an absolute one does not start at the
    root of an image. One that leads nowhere is as good as none. This is for the trees of images: on a live
    host nothing is out of the root, and what a link in a tree leads to is read with the rights of the program
    that is compiled, never with the daemon's.

    Raises:
        Unusable: UNREADABLE, naming the link and where it leads; or a directory cannot be read.
    """
    pending = [str(tree / "include") for tree in (source_tree, build_tree)]
    for tree in dict.fromkeys((source_tree, build_tree)):
        pending += map(str, tree.glob("arch/*/include"))
    seen: set[str] = set()
    while pending:
        path = pending.pop()
        real = os.path.realpath(path)
        if not os.path.lexists(real) or real in seen:
            continue
        if not Path(real).is_relative_to(root):
            raise Unusable(
                Reason.UNREADABLE, f"{printable(path)} leads out of {root}, to {printable(real, 200)}"
            )
        seen.add(real)
        if len(seen) > _MAX_LINKS_AND_DIRECTORIES:
            raise Unusable(Reason.UNREADABLE, f"{build_tree} has more links and directories than any kernel")
        try:
            with os.scandir(real) as entries:
                for entry in entries:
                    if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except NotADirectoryError:
            continue
        except OSError as error:
            raise unreadable(Path(real), error) from None


def change_indicators(source_tree: Path, build_tree: Path) -> list[Path]:
    """What changes when headers are removed, updated or built again. Blocking, as `architecture`."""
    paths = [source_tree / "Makefile", source_tree / "include/linux"]
    paths += (build_tree / name for name in OF_BUILD)
    with contextlib.suppress(Unusable):
        arch = f"arch/{architecture(build_tree)}/include"
        paths.append(source_tree / arch / "asm")
        paths += (build_tree / arch / name for name in _WRAPPERS)
    return paths


def _check_architecture(source_tree: Path, build_tree: Path, arch: str) -> None:
    """Check that there are headers of the architecture, and what its build generates."""
    own = f"arch/{arch}/include/asm"
    if not any(_has_headers(tree / own) for tree in (source_tree, build_tree)):
        raise Unusable(Reason.INCOMPLETE, f"{source_tree / own} has no headers, and autoconf.h says {arch}")
    wrappers = [build_tree / f"arch/{arch}/include" / name for name in _WRAPPERS]
    if not any(map(_has_headers, wrappers)):
        others = [path.parts[-3] for path in sorted(build_tree.glob("arch/*/include/generated"))]
        theirs = f"; what was generated is for {', '.join(others)}" if others else ""
        raise Unusable(
            Reason.INCOMPLETE,
            f"{wrappers[0].parent} has no headers, and autoconf.h says {arch}{printable(theirs, 200)}",
            map(str, wrappers),
        )


def _has_headers(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entry.name.endswith(".h") for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(directory, error) from None


def _check_version(source_tree: Path, build_tree: Path, release: Release) -> None:
    """Check that what was generated was generated from these sources.

    The release need not begin with the version: Debian's 6.1.0-50-amd64 is of Linux 6.1.176, and a release is
    free text. Headers without a Makefile do not tell the version of the sources.
    """
    makefile, version_h = source_tree / "Makefile", build_tree / VERSION_H
    sources = dict(_MAKE_VARIABLE.findall(_read_optional(makefile)))
    generated = dict(_VERSION_MACRO.findall(_read_optional(version_h)))
    built = [int(generated[name]) for name in (b"MAJOR", b"PATCHLEVEL", b"SUBLEVEL") if name in generated]
    if not built and b"CODE" in generated:  # before Linux 5.10
        code = int(generated[b"CODE"])
        built = [code >> 16, code >> 8 & 0xFF, code & 0xFF]
    configured = _CONFIGURED.search(_read_optional(build_tree / AUTOCONF))
    if built and configured and built[:2] != [int(part) for part in configured.groups()]:
        theirs = ".".join(part.decode() for part in configured.groups())
        raise _of_two_versions(version_h, built, build_tree / AUTOCONF, theirs)
    if not sources.get(b"VERSION", b"").isdigit():
        return  # it only includes another one
    written = [int(sources.get(name) or 0) for name in (b"VERSION", b"PATCHLEVEL", b"SUBLEVEL")]
    text = ".".join(map(str, written))
    begins = _VERSION.match(release)
    if built:
        capped = [min(part, 255) for part in written]
        if built not in (written, capped):
            raise _of_two_versions(version_h, built, makefile, text)
    elif begins and [int(begins[1]), int(begins[2])] != written[:2]:
        raise _of_two_versions(build_tree / UTSRELEASE, begins[0], makefile, text)
    candidate = _CANDIDATE.match(sources.get(b"EXTRAVERSION", b"").decode("ascii", "replace"))
    if begins and begins[4] and begins[0] != text + (candidate[0] if candidate else ""):
        raise _of_two_versions(build_tree / UTSRELEASE, begins[0], makefile, text)


def _of_two_versions(one: Path, built: list[int] | str, other: Path, written: str) -> Unusable:
    built = built if isinstance(built, str) else ".".join(map(str, built))
    return Unusable(
        Reason.INCOMPLETE,
        f"{one} is of Linux {built}, and {other} of {written}: what was updated has to be built again",
    )


def _check_included(source_tree: Path, build_tree: Path, arch: str, included: Iterable[str]) -> None:
    directories: list[str] = []
    for name in include_directories(arch):
        # What a tree of sources has of this is left over from another build.
        trees = (build_tree,) if "generated" in name else (source_tree, build_tree)
        directories += dict.fromkeys(str(tree / name) for tree in trees)
    names = list(included)
    # Thousands of times: strings, not paths.
    wanted = [name for name in names if any(os.path.exists(f"{place}/{name}") for place in directories)]  # noqa: PTH110
    if wanted == names:  # a whole kernel's, of whose generated headers bcc includes this in each program
        wanted.append("linux/version.h")
    try:
        check_included(("linux/types.h", *wanted), directories, configuration(build_tree).symbols)
    except Missing as missing:
        by = f", which {missing.by} includes" if missing.by else ""
        name = printable(missing.name, 200)
        raise Unusable(
            Reason.INCOMPLETE, f"there is no <{name}>{printable(by)} in {build_tree}", missing.places
        ) from None
    except UnfitFile as error:
        raise Unusable(Reason.INCOMPLETE, f"{printable(str(error.filename))}: {error.strerror}") from None
    except OSError as error:
        raise unreadable(Path(error.filename), error) from None


def _check_file(path: Path) -> None:
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable(Reason.INCOMPLETE, f"{path} is missing") from None
    except OSError as error:
        raise Unusable(Reason.UNREADABLE, f"{path} cannot be looked at: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise Unusable(Reason.INCOMPLETE, f"{path} is not a regular file")
    if not status.st_size:
        raise Unusable(Reason.INCOMPLETE, f"{path} is empty")


def _read_optional(path: Path) -> bytes:
    """The first lines of a file, nothing if it is not there."""
    try:
        return read_start(path, _MAX_START)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise unreadable(path, error) from None
