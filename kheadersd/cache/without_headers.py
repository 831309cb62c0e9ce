# SPDX-License-Identifier: LGPL-2.1-or-later
"""An entry without its headers: only what a compiler still looks for on the disk."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..formats.tar import DIRECTORY, FILE
from ..system import disk
from . import manifest
from .manifest import DIRECTORY_MODE, FILE_MODE, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .cache import Cache
    from .entry import Entry
    from .staging import Published

_BLOCK = 4096  # what a small file or a directory takes on a common file system


def drop_headers(cache: Cache, entry: Entry, needed: Iterable[str]) -> Published:
    """Publish an entry anew, with some files of its tree and the directories that they are in. Blocking.

    What was precompiled from it stays, at the same place.

    Args:
        needed: names in the tree, of files and of directories.

    Raises:
        Corrupt: the entry is not what it was.
        NoSpace, Vanished, DiskError: it could not be written.
    """
    with disk.explained("read the manifest of the entry", entry.directory):
        kept = _kept(manifest.read(entry.directory, entry.record.manifest_sha256), needed)
    with (
        cache.stage(entry.release, entry.record.digest) as staging,
        disk.explained("drop headers", entry.path),
    ):
        for name, item in kept.entries.items():
            target = staging.tree / name
            if item.kind == DIRECTORY:
                target.mkdir()
                target.chmod(DIRECTORY_MODE)
            elif item.kind == FILE:
                shutil.copyfile(entry.path / name, target, follow_symlinks=False)
                target.chmod(FILE_MODE)
            else:
                target.symlink_to(item.content)
        record = dataclasses.replace(
            entry.record,
            headers_kept=False,
            files=sum(item.kind == FILE for item in kept.entries.values()),
            bytes=sum(_space(item.size) for item in kept.entries.values()),
        )
        return staging.publish(record, kept)


def _kept(whole: Manifest, needed: Iterable[str]) -> Manifest:
    """The part of a manifest that has these names, and the directories above them.

    Raises:
        Corrupt: one of them is not in it.
    """
    names: set[str] = set()
    for name in needed:
        if name not in whole.entries:
            raise Corrupt(f"{name} is needed by what was precompiled, and is not among the headers")
        while name and name not in names:
            names.add(name)
            name = name.rpartition("/")[0]  # noqa: PLW2901
    return Manifest({name: item for name, item in whole.entries.items() if name in names})


def _space(size: int) -> int:
    return max(1, -(-size // _BLOCK)) * _BLOCK
