# SPDX-License-Identifier: LGPL-2.1-or-later
"""The automount of the daemon's own headers, and the standard paths of headers, which may lead to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..system.links import steps

if TYPE_CHECKING:
    from pathlib import Path

    from ..release import Release
    from .host import Host

AUTOMOUNT = "/run/kheaders/build"
"""Where systemd mounts the daemon's headers at the first access, for which it asks the daemon."""


def standard_directory(name: str, release: Release, host: Host) -> Path | None:
    """`real_directory` of /lib/modules/<release>/<name>, where ``name`` is "build" or "source"."""
    return real_directory(host.modules_directory(release) / name, host)


def real_directory(path: Path, host: Host) -> Path | None:
    """The real path of ``path``.

    None if it does not exist, or if it leads to the automount, which is not touched: any access asks the
    daemon for headers.

    Raises:
        OSError: it is there and leads nowhere (ENOENT), or in circles (ELOOP), or cannot be looked at.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if leads_to_automount(path, host):
        return None
    return host.resolve(path)


def leads_to_automount(path: Path, host: Host) -> bool:
    """Whether ``path`` leads to the automount or below it; the automount itself is not looked at."""
    automount = host.path(AUTOMOUNT)
    try:
        return any(step == automount for step in steps(path, host.root, strict=False))
    except OSError:
        return False
