"""What guests are built with: programs of this machine, and packages of the guest's suite."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path

from tests.support import debian
from tests.support.programs import run

INSIDE = Path(__file__).parent / "inside"
"""What is put into a guest."""

# What the initrd needs to find the disk, and the port of the agent.
_INITRD_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4")


@dataclasses.dataclass(frozen=True, slots=True)
class Bootable:
    """A directory that has a kernel of a suite and its initrd, and the kernel's release."""

    directory: Path
    suite: str
    release: str

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"


def make_initrd(result: Path, root: Path, suite: str, release: str) -> None:
    """Put an initrd with a kernel's modules, which are installed below ``root``, into a directory."""
    tree = result / "initrd.tree"
    for part in ("bin", "proc", "sys", "dev", "root", "lib/modules"):
        (tree / part).mkdir(parents=True)
    run("dpkg-deb", "-x", debian.download(suite, "busybox-static"), result / "busybox")
    shutil.copy(next(result.glob("busybox/**/bin/busybox")), tree / "bin")
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


def add_kheaders(modules: Path, module: Path) -> None:
    """Put kheaders.ko among a kernel's modules as its distribution would: compressed if the others are."""
    place = modules / "kernel/kernel/kheaders.ko"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(module, place)
    if next(modules.rglob("*.ko.xz"), None) is not None:
        run("xz", "--check=crc32", "--lzma2=dict=1MiB", place)
