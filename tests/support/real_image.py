"""The image of a kernel that the distribution ships; it is kept beside what else the tests keep."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from tests.support.kheaders import CannotMake

_FLAVOURS = {"amd64": "cloud-amd64", "arm64": "cloud-arm64"}


def real_image() -> tuple[str, Path]:
    """The release of the distribution's smallest kernel, and its vmlinuz; some seconds, once.

    Raises:
        CannotMake: it cannot be had.
    """
    store = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kheadersd-tests" / "images"
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = next(store.glob("vmlinuz-*"), None) or _download(store)
    return found.name.removeprefix("vmlinuz-"), found


def _download(store: Path) -> Path:
    architecture = _run("dpkg", "--print-architecture").strip()
    if architecture not in _FLAVOURS:
        raise CannotMake(f"it is not known how kernels for {architecture} are packaged")
    depends = _run("apt-cache", "depends", f"linux-image-{_FLAVOURS[architecture]}")
    package = next(
        (line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line), None
    )
    if package is None:
        raise CannotMake("apt knows no kernel; is 'apt-get update' missing?")
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        _run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=scratch)
        (archive,) = Path(scratch).glob("*.deb")
        _run("dpkg-deb", "-x", str(archive), f"{scratch}/host")
        (image,) = Path(scratch).glob("host/boot/vmlinuz-*")
        return image.rename(store / image.name)


def _run(*command: str, cwd: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise CannotMake(f"{command[0]} is not installed") from error
    if done.returncode:
        raise CannotMake(f"'{' '.join(command)}' failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
