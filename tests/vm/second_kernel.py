"""A second kernel as a Debian package, as a distribution that enables kheaders would ship it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from kheaders.make import make_real_headers_of
from support import store

from . import building
from .building import Bootable, download, make_initrd, run

_SHIPPED = ("modules.builtin", "modules.builtin.modinfo", "modules.order")  # the others are depmod's


class KernelPackage(Bootable):
    """A package, the kernel release that it has, and what it takes to boot that."""

    @property
    def file(self) -> Path:
        return self.directory / f"{self.name}.deb"

    @property
    def name(self) -> str:
        return f"linux-image-{self.release}"


def second_kernel(running: str) -> KernelPackage:
    """The distribution's kernel of the same flavour before ``running``, with its real kheaders.ko added.

    It is the real package with its real maintainer scripts, without most of the drivers and the image itself,
    and without what it would want besides: an emulated machine unpacks slowly. Two minutes, the first time.
    """
    release = _release_before(running)
    key = store.key_of(release, Path(__file__), Path(building.__file__))
    directory = store.kept("guest/second-kernel", key, lambda directory: _make(release, directory))
    return KernelPackage(directory, release)


def _release_before(running: str) -> str:
    """The newest other one whose headers package apt knows."""
    base, flavour = running.split("-", 1)[0], running.split("-", 2)[2]
    pattern = rf"^linux-headers-{re.escape(base)}-[0-9]+-{re.escape(flavour)}$"
    listing = run("apt-cache", "search", "--names-only", pattern)
    names = [line.split()[0].removeprefix("linux-headers-") for line in listing.splitlines()]
    return max((name for name in names if name != running), key=lambda name: int(name.split("-")[1]))


def _make(release: str, directory: Path) -> None:
    headers = make_real_headers_of(release, directory)
    name = f"linux-image-{release}"
    tree = directory / "tree"
    run("dpkg-deb", "-R", download(name, directory), tree)
    modules = next(tree.glob(f"**/lib/modules/{release}"))
    run("depmod", "-b", tree, release)
    make_initrd(directory, tree, release)
    shutil.copy(tree / f"boot/vmlinuz-{release}", directory / "vmlinuz")
    for file in modules.glob("modules.*"):
        if file.name not in _SHIPPED:
            file.unlink()
    for part in ("drivers", "net", "sound", "arch", "crypto"):
        shutil.rmtree(modules / "kernel" / part, ignore_errors=True)
    for system in (modules / "kernel/fs").iterdir():
        if system.is_dir() and system.name != "autofs":
            shutil.rmtree(system)
    for part in ("vmlinuz", "System.map"):  # it is booted from outside
        (tree / f"boot/{part}-{release}").write_bytes(b"")
    place = modules / "kernel/kernel/kheaders.ko"
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(headers.module, place)
    control = tree / "DEBIAN/control"
    wanted = r"^(Depends|Recommends|Suggests|Breaks):.*\n"
    control.write_text(re.sub(wanted, "", control.read_text(), flags=re.MULTILINE))
    (tree / "DEBIAN/md5sums").unlink()
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, directory / f"{name}.deb")
    for left in directory.iterdir():
        if left.name not in (f"{name}.deb", "vmlinuz", "initrd"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
