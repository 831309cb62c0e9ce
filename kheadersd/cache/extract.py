# SPDX-License-Identifier: LGPL-2.1-or-later
"""Extracts an archive below a directory descriptor, and trusts nothing in it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError, NoSpace
from ..formats.tar import DIRECTORY, FILE, SYMLINK, Member, TarReader
from ..system.disk import free_bytes, is_full
from ..system.printable import quoted
from ..system.tasks import Cancelled
from .manifest import Manifest
from .tree_writer import TreeWriter

if TYPE_CHECKING:
    import threading
    from collections.abc import Generator

    from ..progress import Report
    from ..sources.source import Archive, Layer, Limits

STAGE = "extract"
"""The stage that is reported."""


@dataclasses.dataclass(frozen=True, slots=True)
class Extracted:
    """What was extracted.

    Attributes:
        manifest: every name, with the content that was written.
        files: the number of regular files.
        bytes: the space on disk: files rounded up to the file system's blocks, and a block for a directory.
    """

    manifest: Manifest
    files: int
    bytes: int


def extract(
    archive: Archive,
    directory_fd: int,
    *,
    limits: Limits,
    report: Report,
    cancelled: threading.Event,
) -> Extracted:
    """Write the whole archive below an empty directory. Blocking: some 0.5 s for an archive of 4 MB.

    Files get mode 0444, directories 0755, whatever the umask. Symlinks are made last, after all of them were
    found to lead to something in the archive. Nothing is synced. After any error, what is there is the
    caller's to remove.

    Args:
        archive: layer after layer goes into the same tree.
        directory_fd: stays open, and the caller's.
        limits: what is accepted.
        report: called with the stage "extract" and the fraction done, some hundred times.
        cancelled: looked at before every member, symlink and piece of the archive, and every 0.1 s while
            there is no piece.

    Raises:
        Corrupt: an archive is damaged, incomplete or unsafe; the message names the member.
        NoSpace: the file system is full or will be.
        KheadersError: something could not be written for another reason.
        Cancelled: ``cancelled`` was set.
    """
    check_space(directory_fd, sum(layer.tar_bytes for layer in archive.layers))
    progress = _Progress(archive, limits, report, cancelled)
    tree = TreeWriter(directory_fd, limits)
    try:
        for layer in archive.layers:
            tree.begin_layer(layer.label)
            with contextlib.closing(progress.pieces(layer)) as pieces:
                for member in TarReader(pieces, layer.label):
                    progress.check_cancelled()
                    _add(tree, layer, member)
        tree.make_links(progress.check_cancelled)
    except OSError as error:
        raise _unwritable(error, tree, directory_fd) from error
    finally:
        tree.close()
    report(STAGE, 1.0)
    return Extracted(Manifest(tree.entries), tree.files, tree.blocks * tree.block_size)


def _add(tree: TreeWriter, layer: Layer, member: Member) -> None:
    """Put one member where its layer wants it, if it wants it."""
    name = member.name
    if name[:2] == "./":
        name = name[2:]
    if member.kind == DIRECTORY and name[-1:] == "/":
        name = name[:-1]
    if member.kind == DIRECTORY and name in ("", "."):
        return  # the top of the archive
    tree.check_name(name)
    place = layer.place(name)
    if place is None or (member.kind == DIRECTORY and not place):
        return
    if place != name:
        tree.check_name(place)
    if member.kind == FILE:
        tree.add_file(place, member)
    elif member.kind == DIRECTORY:
        tree.add_directory(place)
    elif member.kind == SYMLINK:
        tree.add_link(place, member.target)
    else:
        raise tree.corrupt(
            place, f"it is {member.kind}, and only files, directories and symlinks are accepted"
        )


def check_space(directory_fd: int, needed: int) -> None:
    """Refuse in advance what cannot fit.

    Args:
        directory_fd: a directory of the file system.
        needed: bytes; 0 if it is not known.

    Raises:
        NoSpace: less is free, or there is no free inode.
    """
    free = free_bytes(directory_fd)
    if free < needed:
        raise NoSpace(
            f"the headers need {needed} bytes and the file system of the cache has {free} free: make room "
            "there, or remove cached headers"
        )
    # Some file systems, such as btrfs, have no fixed number of inodes and say 0 of 0.
    status = os.statvfs(directory_fd)
    if status.f_files and not status.f_favail:
        raise NoSpace("the file system of the cache has no free inode: remove files there, or cached headers")


class _Progress:
    """Counts the decompressed bytes: for the limit, for the report, and to notice a cancellation."""

    def __init__(self, archive: Archive, limits: Limits, report: Report, cancelled: threading.Event) -> None:
        sizes = [layer.tar_bytes for layer in archive.layers]
        self._expected = sum(sizes) if all(sizes) else 0
        self._limits = limits
        self._report = report
        self._cancelled = cancelled
        self._done = 0

    def pieces(self, layer: Layer) -> Generator[bytes, None, None]:
        """The pieces of a layer."""
        total = 0
        pieces = layer.chunks()
        try:
            for piece in pieces:
                self.check_cancelled()
                if not piece:
                    continue
                total += len(piece)
                if total > self._limits.max_bytes:
                    raise Corrupt(f"{layer.label} has more than {self._limits.max_bytes} bytes, the limit")
                yield piece
                self._done += len(piece)
                if self._expected:
                    self._report(STAGE, min(self._done / self._expected, 1.0))
        finally:
            if close := getattr(pieces, "close", None):
                close()

    def check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled


def _unwritable(error: OSError, tree: TreeWriter, directory_fd: int) -> KheadersError:
    """What a failure of the file system means to the caller."""
    if not is_full(error):
        return KheadersError(
            f"{quoted(tree.current)} could not be written to the cache: {error.strerror}; was the cache "
            "changed meanwhile, or is its file system read-only or failing?"
        )
    return NoSpace(
        f"writing {quoted(tree.current)} failed: {error.strerror}; {tree.blocks * tree.block_size} bytes "
        f"were written and {free_bytes(directory_fd)} are free: make room on the file system of the "
        "cache, or remove cached headers"
    )
