# SPDX-License-Identifier: LGPL-2.1-or-later
"""The choice of what loads and unloads the kheaders module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..host.kernel_module import NoLoader
from ..host.modprobe_loader import ModprobeLoader
from ..host.systemd_loader import UNIT, UnitLoader

if TYPE_CHECKING:
    from ..host.host import Host
    from ..host.kernel_module import Loader
    from ..host.systemd_loader import Bus


def choose_loader(host: Host, wanted: str, bus: Bus, *, session: bool) -> Loader:
    """What loads and unloads the module.

    Args:
        wanted: Loader= of the configuration.
        session: whether the daemon serves on a session bus.
    """
    if not host.is_live:
        return NoLoader(f"the host below {host.root} is not this machine")
    if session:
        return NoLoader("a daemon on a session bus has no access to the kernel's modules")
    if wanted == "none":
        return NoLoader("Loader=none in [Module] forbids it")
    if wanted == "systemd" or (wanted == "auto" and _unit_is_installed()):
        return UnitLoader(host, bus)
    if os.geteuid() != 0:
        return NoLoader("kheadersd neither runs as root nor has the unit kheaders-module.service")
    record = Path(os.environ.get("RUNTIME_DIRECTORY", "/run/kheaders"))
    try:
        record.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        return NoLoader(f"{record}, for the record that the daemon loads it: {error.strerror}")
    return ModprobeLoader(host, record / "module-owned")


def _unit_is_installed() -> bool:
    """Whether systemd runs here and has the unit that loads the module."""
    return Path("/run/systemd/system").is_dir() and any(
        Path(directory, "systemd/system", UNIT).exists() for directory in ("/etc", "/run", "/usr/lib", "/lib")
    )
