# SPDX-License-Identifier: LGPL-2.1-or-later
"""Leases: a descriptor that the holder has open, and that ends with its last copy.

The holder gets the read end of a FIFO, the daemon keeps the write end. When the last copy of the read end is
closed, however its holders ended, the kernel reports an error on the write end (pipe(7)). A FIFO has a name,
so a lease also outlives the daemon: the next daemon can open the write end exactly while the read end is open
(fifo(7)).

A lease on headers that are in no entry keeps nothing: where no FIFO can be made, a pipe serves as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import json
import logging
import os
import stat
import time
from typing import TYPE_CHECKING

from ..errors import LimitsExceeded
from ..system import disk, files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_RECORD = ".json"
_MAX_RECORD = 16 * 1024
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_NUMBERS = ("uid", "pid", "since", "inode")


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """A program needs an entry to stay.

    Attributes:
        entry_name: `Entry.name`; "" if the headers are in no entry.
        release: the kernel release.
        sender: the unique bus name of the caller.
        uid, pid: of the caller; the descriptor may have been passed on since.
        reason: what for, in the holder's words.
        since: microseconds since the epoch.
        inode: of the entry's directory when the lease was granted; 0 if that is not known.
    """

    entry_name: str
    release: str
    sender: str
    uid: int
    pid: int
    reason: str
    since: int
    inode: int = 0


class Leases:
    """All leases. Everything runs on the event loop; nothing waits.

    Args:
        directory: where the FIFOs are; made when needed, mode 0700.
        max_total: how many leases there may be.
        max_per_uid: how many of them one user may have; root may have any number.
        on_change: called after leases were granted or ended.
        on_end: called with each lease that ended, before `on_change`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_total: int = 1024,
        max_per_uid: int = 32,
        on_change: Callable[[], None] = lambda: None,
        on_end: Callable[[Lease], None] = lambda _: None,
    ) -> None:
        self._directory = directory
        self._max_total = max_total
        self._max_per_uid = max_per_uid
        self._on_change = on_change
        self._on_end = on_end
        self._leases: dict[int, tuple[Lease, Path | None]] = {}
        self._has_warned = False
        self._some_unread = False

    def limit(self, *, max_total: int, max_per_uid: int) -> None:
        """Set other limits, as in the constructor; leases that are held stay."""
        self._max_total = max_total
        self._max_per_uid = max_per_uid

    def __len__(self) -> int:
        return len(self._leases)

    def all(self) -> tuple[Lease, ...]:
        """Every lease, the oldest first."""
        return tuple(sorted((lease for lease, _ in self._leases.values()), key=lambda lease: lease.since))

    def held(self, entry_name: str) -> int:
        """How many leases an entry has."""
        return sum(lease.entry_name == entry_name for lease, _ in self._leases.values())

    def held_entries(self) -> frozenset[str]:
        """The names of all entries that are leased."""
        return frozenset(lease.entry_name for lease, _ in self._leases.values())

    def is_leased(self, entry_name: str, inode: int) -> bool:
        """Whether a lease was granted on the directory of that inode while it had the name of the entry."""
        return self.granted_on()(entry_name, inode)

    def granted_on(self) -> Callable[[str, int], bool]:
        """`is_leased` as it is now, for any thread.

        Where a lease cannot be read, it may be on any directory.
        """
        known = frozenset((lease.entry_name, lease.inode) for lease, _ in self._leases.values())
        some_unread = self._some_unread
        return lambda name, inode: some_unread or (name, inode) in known or (name, 0) in known

    def grant(  # noqa: PLR0913 - all that ListLeases shows
        self,
        entry_name: str,
        release: str,
        sender: str,
        uid: int,
        pid: int,
        reason: str,
        inode: int = 0,
    ) -> int:
        """Make a lease; for the meaning of the arguments see `Lease`.

        Returns:
            The descriptor for the holder. The caller sends it and closes it; the lease ends when all copies
            are closed, at once if it was never sent.

        Raises:
            LimitsExceeded: there are too many leases, this user has too many, or no descriptors are left.
            NoSpace, DiskError: the FIFO cannot be made, and the headers are in an entry.
        """
        self._check_limits(uid)
        lease = Lease(entry_name, release, sender, uid, pid, reason, time.time_ns() // 1000, inode)
        try:
            reader, writer, path = self._open(lease)
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                raise LimitsExceeded(
                    f"the daemon can open no more files, with {len(self)} leases held; end some of them"
                ) from error
            with disk.explained("make a lease", self._directory):
                raise
        try:
            self._watch(writer, lease, path)
            self._on_change()
        except BaseException:
            os.close(reader)  # which ends the lease, if it is watched
            if writer not in self._leases:
                os.close(writer)
                _forget(path)
            raise
        return reader

    def adopt(self) -> tuple[str, ...]:
        """Take over the leases that a predecessor granted and that are still held, at start.

        Returns:
            What could not be taken over or cleared, a sentence each.
        """
        problems: list[str] = []
        try:
            _check_directory(self._directory)
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return ()
        except NotADirectoryError as error:
            return (f"there are no leases to take over: {error}",)
        except OSError as error:
            self._some_unread = True
            return (f"cannot read {self._directory}: {error.strerror}",)
        for name in dict.fromkeys(name.removesuffix(_RECORD) for name in names):
            path = self._directory / name
            try:
                self._adopt(path)
            except (files.UnfitFile, ValueError, TypeError, RecursionError) as error:
                problems.append(f"the lease {path} is lost: {error}")
                _forget(path)
            except OSError as error:
                # It is still held, and the next daemon may be able to read it.
                self._some_unread = True
                problems.append(f"the lease {path} cannot be read now: {error.strerror}; no entry is removed")
        if self._leases:
            self._on_change()
        return tuple(problems)

    def close(self) -> None:
        """Stop watching; the next daemon adopts the leases that are held. May be called twice."""
        loop = asyncio.get_running_loop()
        for writer in self._leases:
            loop.remove_reader(writer)
            os.close(writer)
        self._leases.clear()

    def _check_limits(self, uid: int) -> None:
        if len(self._leases) >= self._max_total:
            raise LimitsExceeded(f"there are {self._max_total} leases already; some have to end first")
        held = sum(lease.uid == uid for lease, _ in self._leases.values())
        if uid != 0 and held >= self._max_per_uid:
            raise LimitsExceeded(
                f"user {uid} holds {self._max_per_uid} leases already; close the descriptors of some first"
            )

    def _open(self, lease: Lease) -> tuple[int, int, Path | None]:
        """Both ends of a lease, and its FIFO, if it has one."""
        path = self._directory / os.urandom(8).hex()
        try:
            return *self._make(path, lease), path
        except OSError as error:
            _forget(path)
            if lease.entry_name or error.errno in _NO_DESCRIPTORS:
                raise
            if not self._has_warned:
                self._has_warned = True
                log.warning(
                    "leases on headers that are in no entry are forgotten when kheadersd ends: "
                    "%s cannot be written: %s",
                    self._directory,
                    error.strerror,
                )
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            return reader, writer, None

    def _make(self, path: Path, lease: Lease) -> tuple[int, int]:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(self._directory)
        # The record first: where there is a FIFO there is a record.
        disk.write_new(_record_of(path), json.dumps(dataclasses.asdict(lease)).encode(), mode=0o600)
        # Mode 0600 keeps holders from opening the write end, or more read ends, through /proc/self/fd.
        os.mkfifo(path, 0o600)
        reader = os.open(path, _READ)
        try:
            return reader, os.open(path, _WRITE)
        except OSError:
            os.close(reader)
            raise

    def _adopt(self, path: Path) -> None:
        if any(path == known for _, known in self._leases.values()):
            return
        try:
            if not stat.S_ISFIFO(os.lstat(path).st_mode):
                raise ValueError("it is not a FIFO")
            writer = os.open(path, _WRITE)
        except OSError as error:
            # ENXIO: the read end is not open. ENOENT: a record whose FIFO was never made.
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            _forget(path)
            return
        try:
            lease = _read(path)
        except BaseException:
            os.close(writer)
            raise
        self._watch(writer, lease, path)

    def _watch(self, writer: int, lease: Lease, path: Path | None) -> None:
        # The selector reports the error on the write end, EPOLLERR, as readable.
        asyncio.get_running_loop().add_reader(writer, self._ended, writer)
        self._leases[writer] = (lease, path)

    def _ended(self, writer: int) -> None:
        asyncio.get_running_loop().remove_reader(writer)
        lease, path = self._leases.pop(writer)
        os.close(writer)
        _forget(path)
        self._on_end(lease)
        self._on_change()


def _read(path: Path) -> Lease:
    try:
        values = json.loads(files.read_file(_record_of(path), _MAX_RECORD, follow=False))
    except FileNotFoundError:
        raise ValueError("it has no record") from None
    lease = Lease(**values)
    for name, value in values.items():
        if type(value) is not (int if name in _NUMBERS else str):
            raise ValueError(f"its {name} cannot be {value!r}")
    return lease


def _check_directory(path: Path) -> None:
    """
    Raises:
        NotADirectoryError: it is something else; a link, too, which could lead to where others' files are.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no directory; remove it", os.fspath(path))


def _record_of(path: Path) -> Path:
    return path.with_name(path.name + _RECORD)


def _forget(path: Path | None) -> None:
    if path is None:
        return
    for name in (path, _record_of(path)):
        # It is removed already, or the next start does it: a FIFO without readers means nothing.
        with contextlib.suppress(OSError):
            name.unlink()
