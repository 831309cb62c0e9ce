# SPDX-License-Identifier: LGPL-2.1-or-later
"""Loading and unloading the module by modprobe(8), for a daemon that is root on a machine without systemd."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ..errors import ModuleFailed
from ..sandbox.child import run
from ..sandbox.command import Command
from ..system.files import read_text
from ..system.tasks import in_thread
from .kernel_module import ARCHIVE, LOADED, TIME_LIMIT

if TYPE_CHECKING:
    from pathlib import Path

    from .host import Host

log = logging.getLogger(__name__)

_NAME = "kheaders"
_MAX_SHOWN = 500

# What kmod prints for the kernel's refusals, and what can be done.
_REFUSALS = (
    ("Key was rejected", "this kernel loads only modules signed by a key it trusts, and this one is not"),
    (
        "Required key not available",
        "this kernel loads only modules signed by a key it trusts, and this one is not",
    ),
    ("Unknown symbol", "the module does not fit this kernel, or modules.dep is out of date: try 'depmod -a'"),
    ("Exec format error", "the module was built for another kernel: reinstall this kernel's modules package"),
    ("not found in directory", "this kernel has no kheaders module installed"),
)


class ModprobeLoader:
    """Runs modprobe(8), for a daemon that is root on a machine without systemd.

    "blacklist kheaders" in modprobe.d(5) only prevents automatic loading, and does not prevent this.
    "install kheaders /bin/false" does.

    Before the daemon loads the module, it writes the boot id to a file. If the daemon is killed, its next run
    finds that file, and unloads the module.
    """

    def __init__(
        self, host: Host, record: Path, *, modprobe: str | None = None, time_limit: float = TIME_LIMIT
    ) -> None:
        """
        Args:
            record: that file, in an existing directory that only root can write to.
            modprobe: the program; by default it is searched in PATH and where root has it.
            time_limit: seconds.
        """
        self._host = host
        self._record = record
        self._modprobe = modprobe
        self._time_limit = time_limit
        self.is_owned = False

    async def restore_ownership(self) -> None:
        """Find out whether an earlier kheadersd loaded the module."""
        self.is_owned = await in_thread(self._restore_ownership)

    async def load(self) -> None:
        """Load the module."""
        await in_thread(self._write_record)
        try:
            code, said = await self._run("--first-time", _NAME)
        except BaseException:
            # modprobe may have loaded the module before it was killed, and so may another program.
            self.is_owned = self._is_loaded()
            raise
        self.is_owned = code == 0 and self._is_loaded()
        if not self.is_owned:
            await in_thread(self._remove_record)
        if not self._host.path(ARCHIVE).exists():
            raise ModuleFailed(f"kheaders could not be loaded: {self._explain(code, said)}")

    async def unload(self) -> None:
        """Unload the module."""
        if self._is_loaded():
            code, said = await self._run("-r", _NAME)
            if self._is_loaded():
                raise ModuleFailed(f"kheaders could not be unloaded: {self._explain(code, said)}")
        self.is_owned = False
        await in_thread(self._remove_record)

    def _is_loaded(self) -> bool:
        return self._host.path(LOADED).exists()

    def _boot_id(self) -> str:
        return read_text(self._host.path("proc/sys/kernel/random/boot_id")).strip()

    def _write_record(self) -> None:
        try:
            self._record.write_text(self._boot_id(), encoding="ascii")
        except OSError as error:
            raise ModuleFailed(
                f"kheaders is not loaded: {self._record}, which records that the daemon loads it, "
                f"cannot be written: {error.strerror}"
            ) from error

    def _remove_record(self) -> None:
        try:
            self._record.unlink(missing_ok=True)
        except OSError as error:
            log.warning(
                "%s cannot be removed: %s; until the next boot, a kheaders that another program loads may be "
                "taken for the daemon's",
                self._record,
                error.strerror,
            )

    def _restore_ownership(self) -> bool:
        try:
            is_owned = read_text(self._record) == self._boot_id() and self._is_loaded()
        except OSError:
            is_owned = False
        if not is_owned:
            self._remove_record()
        return is_owned

    async def _run(self, *arguments: str) -> tuple[int, str]:
        """The exit code of modprobe, and its message."""
        import shutil  # which imports all compressions

        search = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
        program = self._modprobe or shutil.which("modprobe", path=search)
        if program is None:
            raise ModuleFailed("kheaders cannot be loaded: there is no modprobe; it is in the package kmod")
        command = Command((program, *arguments), {**os.environ, "LC_ALL": "C"}, self._time_limit)
        try:
            done = await run(command)
        except OSError as error:
            raise ModuleFailed(f"kheaders cannot be loaded: {program}: {error.strerror}") from error
        return done.status, done.stderr.strip()[:_MAX_SHOWN]

    def _explain(self, code: int, said: str) -> str:
        if code == 0:
            return (
                "modprobe reports success, but did nothing; "
                "an 'install' or 'remove' line for kheaders in /etc/modprobe.d does that"
            )
        if "not permitted" in said:
            return f"{self._why_not_permitted()} ({said})"
        for words, explanation in _REFUSALS:
            if words in said:
                return f"{explanation} ({said})"
        return said or f"modprobe ended with exit code {code}"

    def _why_not_permitted(self) -> str:
        if self._read("proc/sys/kernel/modules_disabled") == "1":
            return "kernel.modules_disabled=1 forbids loading and unloading modules until the next boot"
        lockdown = self._read("sys/kernel/security/lockdown")
        if lockdown and "[none]" not in lockdown:
            return "this kernel is locked down and takes only signed modules"
        return "the kernel does not permit it: that takes CAP_SYS_MODULE, which containers usually lack"

    def _read(self, name: str) -> str:
        try:
            return read_text(self._host.path(name)).strip()
        except OSError:
            return ""
