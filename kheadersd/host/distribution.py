# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which distribution a host has, and how the headers of its kernels are installed there.

The names of packages and commands are those of the distributions' own documentation. None but Debian's was
tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
from typing import TYPE_CHECKING

from ..system.files import read_text
from ..system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..release import Release
    from .host import Host

# In this order, os-release(5).
_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_MAX_OS_RELEASE = 64 * 1024  # bytes
_MAX_NAME = 80  # characters
_MAX_FAMILIES = 8
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9@._+-]{0,63}")
# Exists on a system that was booted from an ostree or bootc deployment, whose /usr is read-only.
_OSTREE = "run/ostree-booted"


@dataclasses.dataclass(frozen=True, slots=True)
class Distribution:
    """What os-release(5) says.

    Attributes:
        name: for messages, on one line of at most 80 characters.
        families: the distribution's identifier, and those that it is like, the nearest first; at most 8.
        version: VERSION_ID, "" if there is none.
    """

    name: str
    families: tuple[str, ...] = ()
    version: str = ""


def distribution(host: Host) -> Distribution | None:
    """The host's distribution; None where no file says which it is. Blocking."""
    for place in _OS_RELEASE:
        with contextlib.suppress(OSError):
            return _parse(read_text(host.inside(host.path(place)), _MAX_OS_RELEASE))
    return None


def how_to_install(host: Host, release: Release) -> str:
    """How an administrator installs the headers of a kernel there, in words for a message; blocking.

    "" where it is not known which distribution the host has.
    """
    known = distribution(host)
    if known is None:
        return ""
    for family in known.families:
        if family in _ADVICE:
            return _ADVICE[family](_Kernel(host, release, known))
    return f"the package of {known.name} with the headers of this kernel has to be installed"


def _parse(text: str) -> Distribution:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, assigned, value = line.strip().partition("=")
        if assigned and not name.startswith("#"):
            fields[name] = _unquoted(value)
    families = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    name = fields.get("PRETTY_NAME") or fields.get("NAME") or fields.get("ID") or "Linux"
    return Distribution(
        printable(name, _MAX_NAME),
        tuple(family for family in families if _IDENTIFIER.fullmatch(family))[:_MAX_FAMILIES],
        printable(fields.get("VERSION_ID", ""), _MAX_NAME),
    )


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)


@dataclasses.dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel of a host, for which advice is wanted."""

    host: Host
    release: Release
    distribution: Distribution

    @property
    def flavour(self) -> str:
        """What follows the last dash of the release: "default", "lts"; "" if that is no word."""
        last = self.release.rpartition("-")[2]
        return last if re.fullmatch(r"[a-z][a-z0-9_]{0,31}", last) else ""

    def by(self, command: str, *packages: str) -> str:
        """A command that installs packages."""
        return f"'{command} {shlex.join(packages)}' installs those of {self.distribution.name}'s own kernels"


def _of_debian(kernel: _Kernel) -> str:
    return kernel.by("apt install", f"linux-headers-{kernel.release}")


def _of_fedora(kernel: _Kernel) -> str:
    # Each of the packages kernel-devel, kernel-rt-devel, kernel-uek-devel and so on provides this name.
    variant = "+" in kernel.release or "uek" in kernel.release
    package = f"kernel-devel-uname-r == {kernel.release}" if variant else f"kernel-devel-{kernel.release}"
    if kernel.host.exists(kernel.host.path(_OSTREE)):
        layered = kernel.by("rpm-ostree install", f"kernel-devel-{kernel.release}")
        return f"{layered}, in the next deployment; an image with that package does as well"
    old = kernel.distribution.version.startswith("7") and "fedora" not in kernel.distribution.families[:1]
    return kernel.by("yum install" if old else "dnf install", package)


def _of_amazon(kernel: _Kernel) -> str:
    if kernel.distribution.version == "2":
        return kernel.by("yum install", f"kernel-devel-{kernel.release}")
    # kernel6.12-devel and the like provide it, too.
    return kernel.by("dnf install", f"kernel-devel-uname-r == {kernel.release}")


def _of_azure(kernel: _Kernel) -> str:
    return kernel.by("tdnf install", f"kernel-devel-{kernel.release}")


def _of_photon(kernel: _Kernel) -> str:
    flavour = f"{kernel.flavour}-" if kernel.flavour else ""
    return kernel.by("tdnf install", f"linux-{flavour}devel")


def _of_suse(kernel: _Kernel) -> str:
    # The package and its kernel-devel provide their names with the version that the kernel's release has. The
    # packages' own may have another number behind it (rpm/kernel-source.spec.in, "source_rel").
    flavour = kernel.flavour or "default"
    version = kernel.release.removesuffix(f"-{flavour}")
    micro = any("micro" in family for family in kernel.distribution.families)
    command = "transactional-update pkg install" if micro else "zypper install"
    return kernel.by(command, f"kernel-{flavour}-devel={version}")


def _of_arch(kernel: _Kernel) -> str:
    base = "linux"
    # The package's name, which its kernel's directory has (the hook of mkinitcpio reads it).
    with contextlib.suppress(OSError):
        path = kernel.host.modules_directory(kernel.release) / "pkgbase"
        said = read_text(kernel.host.inside(path)).strip()
        base = said if _PACKAGE.fullmatch(said) else base
    return kernel.by("pacman -S", f"{base}-headers") + ", if this kernel is that of the repository"


def _of_alpine(kernel: _Kernel) -> str:
    return kernel.by("apk add", f"linux-{kernel.flavour or 'lts'}-dev")


def _of_nixos(kernel: _Kernel) -> str:
    return (
        "nixpkgs has them in boot.kernelPackages.kernel.dev, below "
        f"lib/modules/{kernel.release}/build, to which a link /usr/src/linux-headers-{kernel.release} can "
        "lead; its kernels also have the module kheaders"
    )


def _of_flatcar(kernel: _Kernel) -> str:
    return (
        f"{kernel.distribution.name} has no headers package: its kernels have the module kheaders, and none "
        "is here for this one"
    )


def _of_bottlerocket(kernel: _Kernel) -> str:
    return (
        f"{kernel.distribution.name} has no headers package: its kernels carry the headers in "
        "/sys/kernel/kheaders.tar.xz"
    )


def _of_gentoo(kernel: _Kernel) -> str:
    return (
        f"the sources that this kernel was built from belong at /usr/src/linux-{kernel.release}, and 'make "
        "modules_prepare' there generates the rest"
    )


_ADVICE: dict[str, Callable[[_Kernel], str]] = {
    "debian": _of_debian,
    "ubuntu": _of_debian,
    "fedora": _of_fedora,
    "rhel": _of_fedora,
    "centos": _of_fedora,
    "amzn": _of_amazon,
    "azurelinux": _of_azure,
    "mariner": _of_azure,
    "photon": _of_photon,
    "suse": _of_suse,
    "opensuse": _of_suse,
    "arch": _of_arch,
    "alpine": _of_alpine,
    "nixos": _of_nixos,
    "flatcar": _of_flatcar,
    "bottlerocket": _of_bottlerocket,
    "gentoo": _of_gentoo,
}
