# SPDX-License-Identifier: LGPL-2.1-or-later
"""The directory of the cache: made when needed, safe, and used by one daemon only."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from typing import TYPE_CHECKING

from ..system.disk import DiskError, Lost, Vanished

if TYPE_CHECKING:
    from pathlib import Path

_ATTEMPTS = 5
# What forbids to make the directory. A unit's sandbox does, once its own mount of the directory is gone.
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


class DirectoryLock:
    """A lock on the directory itself, which needs no file that could be removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mutex = threading.Lock()
        self._descriptor = -1
        self._was_held = False

    def acquire(self) -> None:
        """Lock the directory; make it where it is not there, or not any more. For any thread.

        Raises:
            Lost: it was removed, and this process may not make it again.
            DiskError: it cannot be made, others can write to it, or another daemon uses it.
        """
        with self._mutex:
            for _ in range(_ATTEMPTS):
                # Looked at again after locking: it may have been removed in between.
                if self._is_held():
                    self._was_held = True
                    return
                self._close()
                self._descriptor = self._open_locked()
        raise Vanished(f"the cache directory {self._directory} is removed again and again by another program")

    def release(self) -> None:
        """Unlock the directory, for another daemon. May be called twice."""
        with self._mutex:
            self._close()

    def _is_held(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            return os.path.samestat(os.lstat(self._directory), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def _open_locked(self) -> int:
        try:
            return _open_locked(self._directory)
        except DiskError as error:
            cause = error.__cause__
            if not self._was_held or not isinstance(cause, OSError) or cause.errno not in _FORBIDDEN:
                raise
            if os.path.lexists(self._directory):
                raise
            raise Lost(
                f"the cache directory {self._directory} was removed and kheadersd may not make it: "
                f"{cause.strerror}; kheadersd ends, and is started again with a new one; ask again"
            ) from cause

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open_locked(directory: Path) -> int:
    try:
        directory.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            directory.mkdir(mode=0o755)
            directory.chmod(0o755)
        except FileExistsError:
            _refuse_unsafe(directory)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DiskError(
            f"cannot use the cache directory {directory}: {error.strerror}; "
            "restart the service, which makes its directory, or configure another one"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno != errno.EWOULDBLOCK:
            raise DiskError(f"cannot lock the cache directory {directory}: {error.strerror}") from error
        raise DiskError(
            f"another kheadersd uses the cache directory {directory}; stop it or configure another directory"
        ) from None
    return descriptor


def _refuse_unsafe(directory: Path) -> None:
    status = os.lstat(directory)
    if stat.S_ISLNK(status.st_mode):
        raise DiskError(f"the cache directory {directory} is a symbolic link; configure where it leads to")
    if not stat.S_ISDIR(status.st_mode):
        raise DiskError(f"the cache directory {directory} is not a directory; remove it or configure another")
    if status.st_uid != os.geteuid():
        raise DiskError(
            f"the cache directory {directory} belongs to user {status.st_uid} and kheadersd runs as user "
            f"{os.geteuid()}; change its owner or configure another directory"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DiskError(
            f"the cache directory {directory} has mode {stat.S_IMODE(status.st_mode):04o}, so that others "
            "can write to it; change it to 0755"
        )
