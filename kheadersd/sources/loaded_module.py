# SPDX-License-Identifier: LGPL-2.1-or-later
"""The archive of the running kernel, read from the module that is loaded just for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..host.kernel_module import CannotLoad
from ..names import MODULE
from .source import NotFound, Reason
from .sysfs import read_archive

if TYPE_CHECKING:
    from ..host.host import Host
    from ..host.kernel_module import KernelModule
    from ..progress import Report
    from ..release import Release
    from .source import Archive

# Another program may unload the module at once; then it is loaded again.
_TRIES = 3


class ModuleSource:
    """Loads kheaders, reads its archive whole, and unloads it at once unless it was loaded before."""

    name = MODULE

    def __init__(self, host: Host, module: KernelModule) -> None:
        self._host = host
        self._module = module

    async def find(self, release: Release, report: Report) -> Archive:
        """Read the running kernel's archive, loading the module if it is not loaded.

        Raises:
            NotFound: NOT_RUNNING, MISSING (no such module is installed), UNSUPPORTED (modules cannot be
                loaded here), VANISHED (others unload it as soon as it is loaded) or UNREADABLE.
            ModuleFailed: it could not be loaded, or shows no archive.
            Timeout: loading took longer than 30 seconds.
            Corrupt: its archive is damaged.
        """
        if release != self._host.running:
            raise NotFound(
                Reason.NOT_RUNNING,
                f"only {self._host.running_kernel}, which runs, can load a module of its own",
            )
        if await self._module.refresh() == "absent":
            raise NotFound(Reason.MISSING, f"kernel {release} has no kheaders module installed")
        for _ in range(_TRIES - 1):
            try:
                return await self._load_and_read(report)
            except NotFound as not_found:
                if not_found.reason not in (Reason.MISSING, Reason.VANISHED):
                    raise
        return await self._load_and_read(report)

    async def _load_and_read(self, report: Report) -> Archive:
        report("loading", 0.0)
        try:
            async with self._module.loaded():
                report("reading", 0.5)
                return await read_archive(self._host, self._module.path)
        except CannotLoad as error:
            raise NotFound(Reason.UNSUPPORTED, str(error)) from None
