"""The automount of the daemon's own headers, and the standard paths of headers, which may lead to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..release import Release
    from .host import Host

AUTOMOUNT = "/run/kheaders/build"
"""Where systemd mounts the daemon's headers at the first access, for which it asks the daemon."""

_MAX_LINKS = 40  # the kernel's own limit, MAXSYMLINKS


def standard_directory(name: str, release: Release, host: Host) -> Path | None:
    """`real_directory` of /lib/modules/<release>/<name>, where ``name`` is "build" or "source"."""
    return real_directory(host.modules_directory(release) / name, host)


def real_directory(path: Path, host: Host) -> Path | None:
    """The real path of ``path``.

    None if there is no such name, or if it leads to our own automount: that is not touched, because whatever
    looks there asks the daemon for headers.

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
    """Whether ``path`` is a symlink to our own automount, or to one that is; only reads links.

    Raises:
        OSError: a link's directory cannot be looked at.
    """
    automount = host.path(AUTOMOUNT)
    for _ in range(_MAX_LINKS):
        if path.is_relative_to(automount):
            return True
        try:
            target = str(path.readlink())
        except OSError:  # not a link: EINVAL; or not there
            return False
        if target.startswith("/"):
            path = Path(os.path.normpath(host.path(target)))
        else:
            path = Path(os.path.normpath(host.resolve(path.parent) / target))
    return False
