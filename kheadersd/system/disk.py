# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes, exchanges, syncs and removes files and directories that other programs may change meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KheadersError, NoSpace
from .files import read_file, read_text
from .tasks import Cancelled

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

_RENAME_EXCHANGE = 2  # include/uapi/linux/fs.h
_AT_FDCWD = -100  # include/uapi/linux/fcntl.h
_MAX_TABLE = 64 << 20  # bytes; a machine may have 100,000 mounts (fs.mount-max), of some hundred bytes each
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DiskError(KheadersError):
    """A directory or file of the daemon's cannot be used; the message names it and says why."""


class Vanished(DiskError):
    """Another program removed a directory or file that is needed. The operation may be repeated."""


class Lost(DiskError):
    """A directory was removed, and the daemon may not make it again: only a start of its service can."""


@contextlib.contextmanager
def explained(what: str, where: Path) -> Iterator[None]:
    """Turn an OSError into an error for the caller.

    Args:
        what: completes "cannot …".
        where: a path on the file system concerned.

    Raises:
        NoSpace: the file system, or a quota on it, is full.
        Vanished: a file or directory does not exist any more.
        DiskError: anything else.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if is_full(error):
            raise NoSpace(
                f"cannot {what}: {reason}; {_free(where)} bytes are free on the file system of {where}"
            ) from error
        if error.errno in (errno.ENOENT, errno.ESTALE):
            raise Vanished(
                f"cannot {what}: {where} or a part of it was removed by another program; ask again"
            ) from error
        raise DiskError(f"cannot {what} in {where}: {reason}") from error


def is_full(error: OSError) -> bool:
    """Whether the file system, or a quota on it, is full; or a file is larger than any may be."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(where: Path | int) -> int:
    """How many bytes an unprivileged process may still write on the file system of a path or a descriptor.

    Raises:
        OSError: there is no such path.
    """
    status = os.statvfs(where)
    return status.f_bavail * status.f_frsize


def _free(path: Path) -> int:
    """As `free_bytes`; 0 if ``path`` does not exist any more."""
    try:
        return free_bytes(path)
    except OSError:
        return 0


def boot_id() -> str:
    """The kernel's id of this boot; "" where it cannot be read."""
    try:
        return read_text(_BOOT_ID).strip()
    except OSError:
        return ""


def make_directory(path: Path, *, exist_ok: bool = False) -> None:
    """Make a directory that every user can read, whatever the umask.

    Raises:
        OSError: it cannot be made.
    """
    path.mkdir(exist_ok=exist_ok)
    os.chmod(path, 0o755)  # noqa: S103 - all users read the cache


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of ``data``: one write(2) may take a part only, as when the disk is filling up.

    Raises:
        OSError: it cannot be written; a part of it may be.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_new(path: Path, data: bytes, *, mode: int = 0o644, sync: bool = False) -> None:
    """Write a file that must not exist yet, and with ``sync`` wait until it is on the disk.

    Raises:
        OSError: it exists, or cannot be written; a part of it may be left.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of a file in one step, and wait until it is on the disk.

    Raises:
        OSError: the old content is still there.
    """
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    write_new(new, data, sync=True)
    os.rename(new, path)


def check_inode(status: os.stat_result, inode: int) -> None:
    """Check that a directory is still the one with this inode.

    Raises:
        FileNotFoundError: another directory has its name now.
    """
    if status.st_ino != inode:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk.

    Raises:
        OSError: it is not there, or the disk failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Wait until the file system of ``path`` has everything on its disk.

    One syncfs is much faster than an fsync of each of 6,000 files. Since Linux 5.8 it also reports what could
    not be written, see syncfs(2).

    Raises:
        OSError: ``path`` is not there, or something could not be written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(libc, "syncfs"):
            os.sync()
        elif libc.syncfs(descriptor) != 0:
            raise _last_error(ctypes.get_errno(), path)
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Swap two names of one file system in a single step, so that both exist at every moment.

    Returns:
        Whether that is done: False where the file system, the kernel or the C library cannot do it.

    Raises:
        OSError: one of them does not exist, or the exchange failed otherwise.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise _last_error(code, other)


def _last_error(code: int, path: Path) -> OSError:
    return OSError(code, os.strerror(code), str(path))


def remove_tree(path: Path, cancelled: threading.Event | None = None) -> list[str]:
    """Remove a file or a directory with all that is in it. Other programs may remove it at the same time.

    Symlinks are removed, never followed.

    Args:
        cancelled: ends the removal early when it is set.

    Returns:
        What could not be removed and why, a sentence each; the rest is gone.

    Raises:
        Cancelled: ``cancelled`` was set; a part is left.
    """
    removing = _Removing(cancelled)
    try:
        removing.remove(os.fspath(path))
    except RecursionError:
        removing.problems.append(f"cannot remove {path}: it has too many directories in each other")
    return removing.problems


class _Removing:
    def __init__(self, cancelled: threading.Event | None) -> None:
        self.problems: list[str] = []
        self._cancelled = cancelled

    def remove(self, path: str) -> None:
        with self._noted(path):
            if stat.S_ISDIR(os.lstat(path).st_mode):
                self._empty(path)
                os.rmdir(path)
            else:
                os.unlink(path)

    def _empty(self, path: str) -> None:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            # The daemon owns it, but another program changed its mode. A failure shows at the next step.
            with contextlib.suppress(OSError):
                os.chmod(path, 0o700)
        with os.scandir(path) as entries:
            children = [(child.path, child.is_dir(follow_symlinks=False)) for child in entries]
        for child, is_directory in children:
            if self._cancelled is not None and self._cancelled.is_set():
                raise Cancelled
            if is_directory:
                self.remove(child)
            else:
                with self._noted(child):
                    os.unlink(child)

    @contextlib.contextmanager
    def _noted(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problems.append(f"cannot remove {path}: {error.strerror}")


def used_bytes(path: Path) -> int:
    """The space on disk of a directory and all below it; about 25 ms for 6,000 files.

    What cannot be read is left out.
    """
    total = 0
    pending = [os.fspath(path)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for child in entries:
                status = child.stat(follow_symlinks=False)
                total += status.st_blocks * 512
                if stat.S_ISDIR(status.st_mode):
                    pending.append(child.path)
    return total


def is_mounted(path: Path, table: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a directory of the cache is mounted at another place too, as it is for /lib/modules/*/build.

    Its last two names identify it: the table has paths from the top of the file system, see
    proc_pid_mountinfo(5). False where the table cannot be read. Blocks for a millisecond.
    """
    end = "/" + "/".join(path.parts[-2:])
    try:
        lines = os.fsdecode(read_file(table, _MAX_TABLE)).splitlines()
    except OSError:
        return False
    return any(fields[3].endswith(end) for line in lines if len(fields := line.split()) > 3)
