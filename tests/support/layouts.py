"""Roots as other distributions lay them out, made up of Debian's real headers."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.debian_headers import unpacked


class Headers:
    """Debian's headers in two parts, and as a whole; roots take them and give them back.

    Args:
        directory: an empty one, on the file system of the roots.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        root, own = unpacked("bookworm", "amd64")
        build = root / "usr/src" / f"linux-headers-{own}"
        (source,) = (path for path in (root / "usr/src").iterdir() if path != build)
        for part in ("include", "arch/x86/include"):
            shutil.copytree(source / part, directory / "source" / part, symlinks=True)
            shutil.copytree(build / part, directory / "build" / part, symlinks=True, ignore=_configuration)
            for name in ("source", "build"):
                shutil.copytree(
                    directory / name / part,
                    directory / "whole" / part,
                    symlinks=True,
                    dirs_exist_ok=True,
                    copy_function=os.link,
                )


def _configuration(directory: str, names: list[str]) -> set[str]:
    """include/config: a file for each of 6,000 symbols, which no program includes."""
    return {"config"} & set(names) if directory.endswith("/include") else set()


class Root:
    """A root of a host, into which the headers of one kernel are put in parts.

    Args:
        release: what the headers then say that they are of.
    """

    def __init__(self, headers: Headers, release: str) -> None:
        self.root = headers.directory / "root"
        self.release = release
        self._headers = headers
        self._moved: dict[str, Path] = {}

    def write(self, name: str, text: str = "") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def link(self, name: str, target: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        return path

    def sources(self, name: str) -> Path:
        """The part that no configuration changes."""
        return self._move("source", name)

    def objects(self, name: str) -> Path:
        """The part that the build of the kernel generates."""
        return self._stamped(self._move("build", name))

    def whole(self, name: str) -> Path:
        return self._stamped(self._move("whole", name))

    def remove_headers(self) -> None:
        """Take them out, as the package manager does."""
        for part, place in self._moved.items():
            for path in [*place.glob("include/*"), *place.glob("arch/x86/include/*")]:
                if path.is_symlink():
                    path.unlink()
            place.rename(self._headers.directory / part)
        self._moved.clear()

    def remove(self) -> None:
        self.remove_headers()
        shutil.rmtree(self.root)

    def modules(self, name: str = "usr/lib/modules") -> str:
        """Make the directory of the kernel's modules, and return its name."""
        directory = f"{name}/{self.release}"
        self.write(f"{directory}/modules.dep")
        (self.root / directory / "kernel").mkdir()
        return directory

    def merged(self) -> str:
        """The same where /lib is a link to /usr/lib."""
        self.link("lib", "usr/lib")
        return self.modules()

    def _move(self, part: str, name: str) -> Path:
        place = self._moved[part] = self.root / name
        place.parent.mkdir(parents=True, exist_ok=True)
        return (self._headers.directory / part).rename(place)

    def _stamped(self, place: Path) -> Path:
        generated = place / "include/generated/utsrelease.h"
        generated.unlink()
        generated.write_text(f'#define UTS_RELEASE "{self.release}"\n')
        return place


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way to lay out headers.

    Attributes:
        make: puts them into a root, and returns the source tree and the build tree that are to be served.
    """

    release: str
    os_release: str
    make: Callable[[Root], tuple[Path, Path]]


def _fedora(root: Root) -> tuple[Path, Path]:
    modules = root.merged()
    tree = root.whole(f"usr/src/kernels/{root.release}")
    root.link(f"{modules}/build", f"/usr/src/kernels/{root.release}")
    root.link(f"{modules}/source", "build")
    return tree, tree


def _rhel(root: Root) -> tuple[Path, Path]:
    """With modules of an older kernel, which depmod(8)'s weak-updates link to."""
    older = "usr/lib/modules/5.14.0-362.8.1.el9_3.x86_64"
    root.write(f"{older}/extra/some.ko")
    found = _fedora(root)
    root.link(f"usr/lib/modules/{root.release}/weak-updates/some.ko", f"/{older}/extra/some.ko")
    return found


def _opensuse(root: Root) -> tuple[Path, Path]:
    modules = root.merged()
    version = root.release.removesuffix("-default")
    source = root.sources(f"usr/src/linux-{version}")
    build = root.objects(f"usr/src/linux-{version}-obj/x86_64/default")
    root.link(f"{modules}/build", f"../../../src/linux-{version}-obj/x86_64/default")
    root.link(f"{modules}/source", f"../../../src/linux-{version}")
    return source, build


def _opensuse_prepared(root: Root) -> tuple[Path, Path]:
    """After "make prepare" in the sources, both have what a build generates."""
    source, build = _opensuse(root)
    for part in ("include/generated", "arch/x86/include/generated"):
        shutil.copytree(build / part, source / part)
    return source, build


def _arch(root: Root) -> tuple[Path, Path]:
    modules = root.merged()
    root.write(f"{modules}/pkgbase", "linux\n")
    tree = root.whole(f"{modules}/build")
    root.link("usr/src/linux", f"../lib/modules/{root.release}/build")
    return tree, tree


def _ubuntu(root: Root) -> tuple[Path, Path]:
    """The flavour's package consists of links to the common one."""
    modules = root.merged()
    common = root.sources("usr/src/linux-headers-6.8.0-40")
    tree = root.objects(f"usr/src/linux-headers-{root.release}")
    for directory in ("include", "arch/x86/include"):
        for name in os.listdir(common / directory):
            if not (tree / directory / name).exists():
                up = "../" * (directory.count("/") + 2)
                (tree / directory / name).symlink_to(f"{up}linux-headers-6.8.0-40/{directory}/{name}")
    root.link(f"{modules}/build", f"/usr/src/linux-headers-{root.release}")
    return tree, tree


def _gentoo(root: Root) -> tuple[Path, Path]:
    """/usr/src/linux leads to other sources, and "build" past it."""
    modules = root.merged()
    tree = root.whole(f"usr/src/linux-{root.release}")
    root.link("usr/src/linux", "linux-6.6.40-gentoo")
    root.link(f"{modules}/build", f"/usr/src/linux-{root.release}")
    return tree, tree


def _objects_elsewhere(root: Root) -> tuple[Path, Path]:
    """ "make O=", whose modules_install makes no link "source" since Linux 6.6; /usr is not merged."""
    modules = root.modules("lib/modules")
    source = root.sources("home/u/linux")
    build = root.objects("home/u/objects")
    root.link("home/u/objects/source", "/home/u/linux")
    root.link(f"{modules}/build", "/home/u/objects")
    return source, build


def _nixos(root: Root) -> tuple[Path, Path]:
    """An administrator's link in /usr/src leads to the output "dev" of the kernel's package."""
    store = "nix/store/0123-linux-6.6.33"
    root.modules(f"{store}-modules/lib/modules")
    root.link("run/booted-system/kernel-modules", f"/{store}-modules")
    dev = f"{store}-dev/lib/modules/{root.release}"
    source, build = root.sources(f"{dev}/source"), root.objects(f"{dev}/build")
    root.link(f"usr/src/linux-headers-{root.release}", f"/{dev}/build")
    return source, build


def _store(root: Root) -> tuple[Path, Path]:
    """The directory of the modules is a link."""
    modules = root.modules("nix/store/abc-linux/lib/modules")
    tree = root.whole(f"{modules}/build")
    root.link(f"lib/modules/{root.release}", f"/{modules}")
    return tree, tree


def _without_link(root: Root) -> tuple[Path, Path]:
    """WSL, and containers with the host's /usr/src: there are no modules."""
    tree = root.whole(f"usr/src/linux-headers-{root.release}")
    return tree, tree


LAYOUTS = {
    "Fedora": Layout(
        "6.17.1-300.fc43.x86_64", 'ID=fedora\nVERSION_ID=43\nPRETTY_NAME="Fedora Linux 43"\n', _fedora
    ),
    "RHEL": Layout(
        "5.14.0-427.13.1.el9_4.x86_64",
        'ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"\nPRETTY_NAME="Red Hat Enterprise Linux 9.4 (Plow)"\n',
        _rhel,
    ),
    "Amazon Linux": Layout(
        "5.10.220-209.867.amzn2.x86_64",
        'ID="amzn"\nID_LIKE="centos rhel fedora"\nVERSION_ID="2"\nPRETTY_NAME="Amazon Linux 2"\n',
        _fedora,
    ),
    "openSUSE": Layout(
        "6.4.0-150600.23.47-default",
        'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\nPRETTY_NAME="openSUSE Leap 15.6"\n',
        _opensuse,
    ),
    "openSUSE, prepared": Layout("6.4.0-150600.23.47-default", 'ID_LIKE="suse"\n', _opensuse_prepared),
    "Arch": Layout("6.14.4-arch1-2", 'ID=arch\nPRETTY_NAME="Arch Linux"\n', _arch),
    "Ubuntu": Layout("6.8.0-40-generic", "ID=ubuntu\nID_LIKE=debian\n", _ubuntu),
    "Gentoo": Layout("6.6.30-gentoo", "ID=gentoo\n", _gentoo),
    "O=": Layout("6.9.0-rc3-00042-gdeadbeef-dirty", "ID=debian\n", _objects_elsewhere),
    "NixOS": Layout("6.6.33", 'ID=nixos\nPRETTY_NAME="NixOS 24.05 (Uakari)"\n', _nixos),
    "a link to the modules": Layout("6.1.77", "ID=own\n", _store),
    "no link": Layout("6.6.87.2-microsoft-standard-WSL2+", "ID=ubuntu\n", _without_link),
}
"""By what a test calls them. The releases are some that kernels of the distributions have."""


def make(layout: Layout, headers: Headers) -> tuple[Root, Path, Path]:
    """Make a root that runs the layout's kernel; it, and the source and build trees that are to be served."""
    root = Root(headers, layout.release)
    describe(root.root, layout.os_release, layout.release)
    return root, *layout.make(root)


def describe(place: Path, os_release: str, release: str) -> None:
    """Let a root say which distribution it has, and which kernel runs."""
    for name, text in {
        "usr/lib/os-release": os_release,
        "proc/sys/kernel/osrelease": f"{release}\n",
        "sys/kernel/notes": "",
    }.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (place / "etc").mkdir()
    (place / "etc/os-release").symlink_to("../usr/lib/os-release")
