"""A tree that is served in place, as an archive: for what has to be made from headers that nobody changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError
from ..headers import OF_BUILD, OF_SOURCE
from . import Archive, Layer, Tree, whole

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 1 << 17
_BETWEEN = " and "
# In the same order whatever the file system, and the same bytes whenever and by whomever it was installed.
_ALWAYS_THE_SAME = (
    *("--create", "--file=-", "--format=gnu", "--sort=name", "--mtime=@0", "--numeric-owner"),
    *("--owner=0", "--group=0", "--mode=u=rwX,go=rX", "--dereference", "--hard-dereference"),
)


def origin(tree: Tree) -> str:
    """What the journal calls a tree, and `stamp` can find it by."""
    return _BETWEEN.join(str(path) for path in dict.fromkeys((tree.source_tree, tree.build_tree)))


def stamp(origin: str) -> str:
    """The present identity of a tree, "" if it is not there; some 20 microseconds.

    A package that is installed, upgraded or removed changes it. An editor's changes in single files need not.
    """
    source, _, build = origin.partition(_BETWEEN)
    names = [*(f"{source}/{name}" for name in OF_SOURCE), *(f"{build or source}/{name}" for name in OF_BUILD)]
    names += [f"{place}/include" for place in (source, build) if place]
    try:
        found = [os.stat(name) for name in names]
    except OSError:
        return ""
    return " ".join(f"{each.st_ino}:{each.st_ctime_ns}" for each in found)


def snapshot(tree: Tree, cancelled: threading.Event) -> Archive:
    """Read a tree once, to know what it is; blocking, some 0.3 s.

    Only what belongs to the kernel's architecture is taken. Symlinks are followed: Debian's lead from one
    package to another.

    Raises:
        Corrupt: it cannot be read, or was changed meanwhile.
    """
    import hashlib

    known = stamp(origin(tree))
    layers = [
        Layer(str(place), lambda place=place, parts=parts: _read(place, parts), whole)  # type: ignore[misc]
        for place, parts in _layers(tree)
    ]
    digest = hashlib.sha256()
    for layer in layers:
        for piece in layer.chunks():
            if cancelled.is_set():
                break
            digest.update(piece)
    if not known or stamp(origin(tree)) != known:
        raise Corrupt(f"{origin(tree)} was changed while it was read; ask again")
    return Archive(digest.hexdigest(), layers, origin(tree), origin_stamp=known)


def _layers(tree: Tree) -> Iterator[tuple[Path, list[str]]]:
    places = list(dict.fromkeys((tree.source_tree, tree.build_tree)))
    architectures = {path.parent.parent.name for path in tree.build_tree.glob("arch/*/include/generated")}
    for place in places:
        parts = ["include", *(f"arch/{name}/include" for name in sorted(architectures))]
        yield place, [part for part in parts if (place / part).is_dir()]


def _read(place: Path, parts: list[str]) -> Iterator[bytes]:
    import subprocess

    command = ["tar", *_ALWAYS_THE_SAME, f"--directory={place}", "--", *parts]
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
    except OSError as error:
        raise KheadersError(f"cannot read {place}: tar: {error.strerror}") from error
    assert child.stdout is not None
    with child:
        try:
            while piece := child.stdout.read(_PIECE):
                yield piece
            if child.wait():
                raise Corrupt(
                    f"{place} cannot be read: tar gave {child.returncode}; was it changed meanwhile?"
                )
        finally:
            child.kill()
