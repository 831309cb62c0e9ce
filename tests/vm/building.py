"""What guests are built with: programs of this machine, and packages of its distribution."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
"""What is put into a guest."""

_TIME_LIMIT = 1200.0  # seconds for each program that is run

# What the initrd needs to find the disk, and the port of the agent.
_INITRD_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4")


class CannotBuild(Exception):
    """A program or a package that is needed is not there; the message says which."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bootable:
    """A directory that has a kernel and its initrd, and the kernel's release."""

    directory: Path
    release: str

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"


def make_initrd(result: Path, root: Path, release: str) -> None:
    """Put an initrd with a kernel's modules, which are installed below ``root``, into a directory."""
    tree = result / "initrd.tree"
    for part in ("bin", "proc", "sys", "dev", "root", "lib/modules"):
        (tree / part).mkdir(parents=True)
    package = download("busybox-static", result)
    run("dpkg-deb", "-x", package, result / "busybox")
    shutil.copy(result / "busybox/bin/busybox", tree / "bin")
    shutil.copy(INSIDE / "init", tree)
    (tree / "init").chmod(0o755)
    names = []
    for file in _needed_modules(root, release):
        _put_plain(file, tree / "lib/modules")
        names.append(re.sub(r"\.(xz|zst|gz)$", "", file.name))
    (tree / "modules").write_text("".join(f"{name}\n" for name in names))
    run("sh", "-ec", f"find . | cpio -o -H newc --quiet | gzip -1 >{result}/initrd", cwd=tree)
    shutil.rmtree(tree)
    shutil.rmtree(result / "busybox")
    package.unlink()


def _needed_modules(root: Path, release: str) -> list[Path]:
    """The files of the modules that the initrd loads, each after those it depends on."""
    files: dict[Path, None] = {}
    for name in _INITRD_MODULES:
        shown = subprocess.run(
            ["modprobe", "-d", root, "-S", release, "--show-depends", name],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        for line in shown.splitlines():
            if line.startswith("insmod "):  # the others are built in
                files[Path(line.split()[1])] = None
    return list(files)


def _put_plain(file: Path, directory: Path) -> None:
    shutil.copy(file, directory)
    copied = directory / file.name
    if file.suffix in (".xz", ".zst"):
        run("xz" if file.suffix == ".xz" else "zstd", "-q", "-d", copied)
        copied.unlink(missing_ok=True)


def download(package: str, directory: Path) -> Path:
    """The package as a file in a directory.

    Raises:
        CannotBuild: apt does not have it.
    """
    run("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package, cwd=directory)
    return next(directory.glob(f"{package}_*.deb"))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program in the C locale and return what it printed."""
    words = " ".join(str(word) for word in command)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIME_LIMIT,
            check=False,
        )
    except FileNotFoundError as error:
        raise CannotBuild(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CannotBuild(f"'{words}' did not end within {_TIME_LIMIT:g} seconds") from error
    if done.returncode != 0:
        raise CannotBuild(f"'{words}' failed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
