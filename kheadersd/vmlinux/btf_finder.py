# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds a kernel's BTF: in sysfs for the running kernel, or in the image of an installed kernel."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import threading
from typing import TYPE_CHECKING, TypeVar

from ..errors import Corrupt, KheadersError, ReleaseMismatch
from ..formats.btf import MAX_BTF, check
from ..host.automount import leads_to_automount
from ..sources.source import NotFound, Reason
from ..system.file_identity import stored_identity_at
from ..system.files import TooLarge, read_file
from ..system.tasks import in_thread
from .kernel_image import read_image, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ..host.host import Host
    from ..release import Release

RUNNING_BTF = "sys/kernel/btf/vmlinux"
"""Where the running kernel shows its section .BTF, byte by byte, below the host's root."""

IMAGES = (
    "boot/vmlinux-{}",
    "lib/modules/{}/vmlinux-{}",
    "lib/modules/{}/build/vmlinux",
    "lib/modules/{}/vmlinux",
    "usr/lib/debug/boot/vmlinux-{}",
    "usr/lib/debug/lib/modules/{}/vmlinux",
    "lib/modules/{}/vmlinuz",
    "boot/vmlinuz-{}",
)
"""Where images are, with the release for the braces. Those that need no decompressing come first,
where libbpf looks for them, too (btf__load_vmlinux_btf); then what is booted."""

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Btf:
    """A kernel's type information.

    Attributes:
        data: the content of the kernel's section .BTF, complete as far as its header says; of 4 to 64 MiB.
        digest: its sha256, 64 hex digits; the running kernel's is that of its image.
        origin: the path of the file that it was read from.
        origin_stamp: the identity of the origin, see `stamp`.
        build_id: the kernel's GNU build-id in hex, "" where it is not known.
    """

    data: bytes
    digest: str
    origin: str
    origin_stamp: str
    build_id: str


async def find(host: Host, release: Release, scratch: Path) -> Btf:
    """The BTF of ``release``.

    Takes milliseconds for the running kernel and up to some seconds for an image, in a thread.

    Args:
        scratch: a directory with room for a decompressed kernel, 20 to 120 MB, meanwhile.

    Raises:
        NotFound: there is none; the message says why not for each path. ``reason`` is MISSING if there is no
            image either, else what is wrong with the first: INCOMPLETE (built without BTF), UNSUPPORTED (it
            cannot be decompressed here), OTHER_RELEASE (another build than the one that runs), UNREADABLE.
        Corrupt: what was found is damaged.
        ReleaseMismatch: what was found is of other kernels.
        NoSpace: there is no room in ``scratch``.
    """
    cancelled = threading.Event()
    return await in_thread(_find, host, release, scratch, cancelled, cancelled=cancelled)


async def check_exists(host: Host, release: Release) -> None:
    """Check that there is a file that may have the BTF of ``release``; some microseconds for each path.

    Raises:
        NotFound: there is none, with the message of `find`.
    """
    await in_thread(_first, host, release, functools.partial(_check_exists, host, release))


def stamp(host: Host, origin: str) -> str:
    """The identity of an origin now, "" if it is gone; microseconds.

    Of an image, as `stored_identity_at`. Of the running kernel, its build-id: the times in sysfs are those of
    a cache.
    """
    if origin == str(host.path(RUNNING_BTF)):
        return _stamp_of_running(host) if host.exists(host.path(RUNNING_BTF)) else ""
    return stored_identity_at(origin)


def _stamp_of_running(host: Host) -> str:
    return f"running:{host.running}:{host.build_id}"


def _find(host: Host, release: Release, scratch: Path, cancelled: threading.Event) -> Btf:
    def read(place: str, path: Path) -> Btf:
        if place == RUNNING_BTF:
            return _of_running(host, release, path)
        return _of_image(host, release, path, scratch, cancelled)

    return _first(host, release, read)


def _check_exists(host: Host, release: Release, place: str, path: Path) -> None:
    if place != RUNNING_BTF:
        _real_path(host, path)
        return
    _check_runs(host, release, path)
    if not host.exists(path):
        raise NotFound(Reason.MISSING, f"there is no {path}")


def _first(host: Host, release: Release, look: Callable[[str, Path], T]) -> T:
    """The result of ``look`` for the first path at which it raises nothing. Raises as `find`."""
    missing: list[str] = []
    failures: list[NotFound] = []
    errors: list[KheadersError] = []
    for place in (RUNNING_BTF, *IMAGES):
        path = host.path(place.format(release, release))
        try:
            return look(place, path)
        except NotFound as not_found:
            if not_found.reason == Reason.MISSING:
                missing.append(str(path))
            else:
                failures.append(not_found)
        except (Corrupt, ReleaseMismatch) as error:
            errors.append(error)
    if errors:
        raise errors[0]
    reasons = (failure.reason for failure in failures)
    reason = next((reason for reason in reasons if reason != Reason.NOT_RUNNING), Reason.MISSING)
    nowhere = f"there is none of {', '.join(missing)}" if missing else ""
    raise NotFound(reason, "; ".join(filter(None, [*(failure.message for failure in failures), nowhere])))


def _of_running(host: Host, release: Release, path: Path) -> Btf:
    _check_runs(host, release, path)
    try:
        data = read_file(host.inside(path), MAX_BTF)
    except TooLarge as error:
        raise Corrupt(f"{path} is too large: {error.strerror}") from error
    except OSError as error:
        raise unreadable(path, error) from error
    check(data, str(path))
    return Btf(data, _digest(data), str(path), _stamp_of_running(host), host.build_id)


def _check_runs(host: Host, release: Release, path: Path) -> None:
    if release != host.running:
        raise NotFound(Reason.NOT_RUNNING, f"{path} is of {host.running_kernel}, which runs")


def _of_image(host: Host, release: Release, path: Path, scratch: Path, cancelled: threading.Event) -> Btf:
    real = _real_path(host, path)
    found = read_image(real, release, scratch, cancelled)
    if (
        release == host.running
        and "" not in (host.build_id, found.build_id)
        and host.build_id != found.build_id
    ):
        raise NotFound(
            Reason.OTHER_RELEASE, f"{real} is of another build of {release} than the one that runs"
        )
    return Btf(found.btf, _digest(found.btf), str(real), found.stamp, found.build_id)


def _real_path(host: Host, path: Path) -> Path:
    try:
        # The automount has the daemon's own headers and no image; a look would mount them.
        if leads_to_automount(path.parent, host):
            raise NotFound(Reason.MISSING, f"there is no {path}")
        return host.resolve(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
