"""A second kernel as a Debian package, as a distribution that enables kheaders would ship it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.support import debian, store
from tests.support.kheaders import make_real_headers_of
from tests.support.programs import run
from tests.vm import building
from tests.vm.building import Bootable, add_kheaders, make_initrd

_SHIPPED = ("modules.builtin", "modules.builtin.modinfo", "modules.order")  # the others are depmod's


class KernelPackage(Bootable):
    """A package, the kernel release that it has, and what it takes to boot that."""

    @property
    def file(self) -> Path:
        return self.directory / f"{self.name}.deb"

    @property
    def name(self) -> str:
        return f"linux-image-{self.release}"


def second_kernel(suite: str, running: str) -> KernelPackage:
    """The suite's newest kernel of the same series and flavour but ``running``, with its real kheaders.

    It is the real package with its real maintainer scripts, without most of the drivers and the image itself,
    and without what it would want besides: an emulated machine unpacks slowly. Two minutes, the first time.
    """
    release = _other_release(suite, running)
    key = store.key_of(suite, release, Path(__file__), Path(building.__file__))
    kind = f"guest/second-kernel-{suite}"
    directory = store.kept(kind, key, lambda directory: _make(suite, release, directory))
    return KernelPackage(directory, suite, release)


def _other_release(suite: str, running: str) -> str:
    series, flavour = ".".join(running.split(".")[:2]), running.split("-", running.count("-") - 1)[-1]
    pattern = rf"linux-headers-{re.escape(series)}\.[^-]*(-[0-9]+)?-{flavour}"
    releases = [name.removeprefix("linux-headers-") for name in debian.names(suite, pattern)]
    return next(release for release in reversed(releases) if release != running)


def _make(suite: str, release: str, directory: Path) -> None:
    headers = make_real_headers_of(suite, release, directory)
    name = f"linux-image-{release}"
    tree = directory / "tree"
    run("dpkg-deb", "-R", debian.download(suite, name), tree)
    modules = next(tree.glob(f"**/lib/modules/{release}"))
    if not (tree / "lib").exists():
        (tree / "lib").symlink_to("usr/lib")  # where depmod and modprobe of a different suite look
    run("depmod", "-b", tree, release)
    make_initrd(directory, tree, suite, release)
    if (tree / "lib").is_symlink():
        (tree / "lib").unlink()
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
    add_kheaders(modules, headers.module)
    control = tree / "DEBIAN/control"
    wanted = r"^(Depends|Recommends|Suggests|Breaks):.*\n"
    control.write_text(re.sub(wanted, "", control.read_text(), flags=re.MULTILINE))
    (tree / "DEBIAN/md5sums").unlink()
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, directory / f"{name}.deb")
    for left in directory.iterdir():
        if left.name not in (f"{name}.deb", "vmlinuz", "initrd"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
