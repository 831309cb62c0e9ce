# SPDX-License-Identifier: LGPL-2.1-or-later
"""The archive that the running kernel shows in /sys/kernel, when it is there already."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

from ..errors import Corrupt
from ..names import SYSFS
from ..system.file_identity import stored_identity
from ..system.files import opened, read_up_to
from ..system.tasks import in_thread
from .kernel_archive import MAX_ARCHIVE, archive_from_bytes
from .source import NotFound, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from ..host.host import Host
    from ..host.kernel_module import KernelModule
    from ..progress import Report
    from ..release import Release
    from .source import Archive

# Others load and unload the module too (bcc does so at every start). Seconds between one look and the next.
_PAUSES = (0.02, 0.05, 0.1, 0.2)


class SysfsSource:
    """Reads what is loaded or built in; never loads anything."""

    name = SYSFS

    def __init__(self, host: Host, module: KernelModule) -> None:
        self._host = host
        self._module = module

    async def find(self, release: Release, report: Report) -> Archive:
        """Read the running kernel's archive whole.

        Raises:
            NotFound: NOT_RUNNING, MISSING, VANISHED (unloaded by others each time) or UNREADABLE.
            Corrupt: it is not one whole xz file, or larger than 24 MiB.
        """
        if release != self._host.running:
            raise NotFound(
                Reason.NOT_RUNNING, f"{self._module.path} is of {self._host.running_kernel}, which runs"
            )
        report("reading", 0.0)
        with self._module.in_use():
            return await read_archive(self._host, self._module.path)

    def is_lasting(self) -> bool:
        """Whether the archive is built into the kernel, and not that of a module which can be unloaded."""
        return self._module.state() == "builtin"


async def read_archive(host: Host, path: Path) -> Archive:
    """Read ``path`` of a host whole; when it is lost half-way it is looked at again, for at most 0.4 seconds.

    Raises:
        NotFound: MISSING, VANISHED or UNREADABLE.
        Corrupt: it is not one whole xz file, or larger than 24 MiB.
    """
    for pause in (*_PAUSES, None):
        try:
            return await in_thread(_read_once, host, path)
        except FileNotFoundError:
            if pause == _PAUSES[0]:
                raise NotFound(Reason.MISSING, f"there is no {path}: kheaders is not loaded") from None
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise NotFound(Reason.UNREADABLE, f"{path} cannot be read: {error.strerror}") from error
        if pause is not None:
            await asyncio.sleep(pause)
    tries = len(_PAUSES) + 1
    raise NotFound(
        Reason.VANISHED,
        f"{path} vanished each of {tries} times it was read: another program unloads kheaders",
    )


def _read_once(host: Host, path: Path) -> Archive:
    file = host.inside(path)
    data, stamp = read_whole(file)
    return archive_from_bytes(
        data, label=str(path), origin=str(file), build_id=host.build_id, origin_stamp=stamp
    )


def read_whole(path: Path) -> tuple[bytes, str]:
    """Read a file of sysfs; the stamp is that of the very file that was read.

    Raises:
        OSError: it cannot be opened or read; ENODEV if its module was unloaded meanwhile.
        Corrupt: it is larger than 24 MiB.
    """
    with opened(path) as (descriptor, status):
        if status.st_size > MAX_ARCHIVE:
            raise Corrupt(f"{path} has {status.st_size} bytes, more than the {MAX_ARCHIVE} that are taken")
        data = read_up_to(descriptor, status.st_size)
    if len(data) < status.st_size:
        raise OSError(errno.ENODEV, "it ends before its size", str(path))
    return data, stored_identity(status)
