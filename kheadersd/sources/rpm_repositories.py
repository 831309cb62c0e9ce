# SPDX-License-Identifier: LGPL-2.1-or-later
"""The package repositories of a host with rpm, and the keys that their packages are signed with.

dnf of the running host reads these files itself. For an image, dnf gets copies with the settings that name
neither programs nor files of this machine.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..host.distribution import distribution
from ..system.files import read_text
from ..system.printable import printable, quoted
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..host.host import Host

EXTRA = "kheadersd-extra-"
"""What the names of the repositories of ``ExtraRepositories=`` begin with."""

# dnf.conf(5), "reposdir" and "varsdir"; dnf5.conf(5); zypper(8) has its own.
REPOSITORIES = ("etc/yum.repos.d", "etc/distro.repos.d", "usr/share/dnf5/repos.d")
ZYPP_REPOSITORIES = ("etc/zypp/repos.d",)
_VARIABLES = ("etc/yum/vars", "etc/dnf/vars", "usr/share/dnf5/vars.d")
ZYPP_VARIABLES = ("etc/zypp/vars.d",)

_MAX_FILES = 256
_MAX_FILE = 1 << 20  # bytes
_MAX_KEYS = 16  # of one repository
_MAX_VARIABLES = 4  # in one address
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z0-9_]{1,64})\}|([A-Za-z0-9_]{1,64}))")

# What a copy for an image has. Not "sslcacert" and the like, which name files.
_COPIED = ("name", "baseurl", "mirrorlist", "metalink", "priority", "cost", "module_hotfixes")
_ADDRESSES = ("baseurl", "mirrorlist", "metalink")
_COPIED_FOR_ZYPPER = ("name", "type", "path", "priority")
# What zypper reads without mounting a medium or running a plugin. The rest of an address can name a file with
# a password, which is this machine's.
_ZYPPER_ADDRESS = re.compile(r"(?:https?|ftp)://\S+|(?:file|dir):/\S+")
_IMAGE_ADDRESS = re.compile(r"https?://[^\s?#;]+")

# What rpm calls a machine, where that is not what uname(2) does.
_BASES = {"i386": "i386", "i486": "i386", "i586": "i386", "i686": "i386", "armv7l": "armhfp"}


@dataclasses.dataclass(frozen=True, slots=True)
class Repository:
    """A section of a .repo file.

    Attributes:
        name: the section's name, by which dnf calls it.
        options: as they are in the file.
    """

    name: str
    options: Mapping[str, str]

    @property
    def is_enabled(self) -> bool:
        """Whether dnf uses it."""
        return self.options.get("enabled", "1").strip().lower() in ("1", "yes", "true", "on")


def read_repositories(host: Host, directories: Sequence[str] = REPOSITORIES) -> list[Repository]:
    """The enabled repositories of a host. What cannot be read is left out. Blocking."""
    found: dict[str, Repository] = {}
    for path in _files(host, directories, ".repo"):
        parser = configparser.RawConfigParser(delimiters=("=",), strict=False, allow_no_value=True)
        with contextlib.suppress(OSError, configparser.Error):
            parser.read_string(read_text(host.inside(path), _MAX_FILE), str(path))
            for name in parser.sections():
                if _NAME.fullmatch(name):
                    options = {key: value or "" for key, value in parser.items(name)}
                    found[name] = Repository(name, options)
    return [repository for repository in found.values() if repository.is_enabled]


def read_variables(
    host: Host, machine: str, directories: Sequence[str] = _VARIABLES
) -> dict[str, tuple[str, ...]]:
    """The values that a variable in a .repo file may have, the likeliest first. Blocking.

    dnf takes ``$releasever`` from the version of a package. That is VERSION_ID of os-release(5), or its part
    before the dot.
    """
    values: dict[str, tuple[str, ...]] = {"arch": (machine,), "basearch": (_BASES.get(machine, machine),)}
    known = distribution(host)
    if known is not None and _NAME.fullmatch(known.version):
        values["releasever"] = tuple(dict.fromkeys((known.version, known.version.partition(".")[0])))
    for path in _files(host, directories, ""):
        with contextlib.suppress(OSError):
            value = read_text(host.inside(path)).partition("\n")[0].strip()
            if re.fullmatch(r"[A-Za-z0-9_]{1,64}", path.name) and value.isprintable():
                values[path.name] = (value,)
    return values


def key_files(host: Host, repository: Repository, variables: Mapping[str, tuple[str, ...]]) -> list[Path]:
    """The host's own files with the keys that sign a repository's packages, those that exist. Blocking.

    A key with another address than ``file:`` is on another machine, and not the host's own.
    """
    found: list[Path] = []
    for address in re.split(r"[\s,]+", repository.options.get("gpgkey", "").strip()):
        if not address.startswith(("file:///", "/")):
            continue
        for text in _expanded(address.removeprefix("file://"), variables):
            path = Path(text)
            if path.is_absolute() and ".." not in path.parts and host.path(text).name:
                with contextlib.suppress(OSError):
                    real = host.inside(host.path(text))
                    if real.is_file() and real not in found:
                        found.append(real)
    return found[:_MAX_KEYS]


def write_copies(target: Path, host: Host, repositories: Sequence[Repository]) -> None:
    """Write a file for dnf with those settings of an image's repositories that are safe here. Blocking.

    Raises:
        NotFound: UNSUPPORTED, a repository is not on the network.
        OSError: it cannot be written.
    """
    lines = []
    for repository in repositories:
        lines.append(f"[{repository.name}]\n")
        for key in _COPIED:
            value = " ".join(repository.options.get(key, "").split())
            if not value:
                continue
            for address in re.split(r"[\s,]+", value) if key in _ADDRESSES else ():
                if not re.match(r"https?://", address):
                    raise NotFound(
                        Reason.UNSUPPORTED,
                        f"the repository {repository.name} of the image {printable(str(host.root))} has the "
                        f"address {quoted(address)}, and only http and https are used for an image",
                    )
            lines.append(f"{key}={printable(value)}\n")
    target.write_text("".join(lines), encoding="utf-8")


def zypper_section(host: Host, repository: Repository) -> str:
    """A section of a .repo file for zypper, with those settings that are safe here.

    Lists are only used if a key that the host has accepted signs them: libzypp before 17.38.10 writes files
    wherever they say (CVE-2026-25707). "" if the repository has no address that is read without mounting
    anything.
    """
    lines = [f"[{repository.name}]", "enabled=1", "autorefresh=1"]
    # rpmkeys verifies packages: to libzypp 17.38.16 with rpm 6, each is unsigned.
    lines += ["gpgcheck=1", "repo_gpgcheck=1", "pkg_gpgcheck=0"]
    for key in _COPIED_FOR_ZYPPER:
        if value := " ".join(repository.options.get(key, "").split()):
            lines.append(f"{key}={printable(value)}")
    pattern = _ZYPPER_ADDRESS if host.is_live else _IMAGE_ADDRESS
    addresses = {
        key: [text for text in repository.options.get(key, "").split() if pattern.fullmatch(text)]
        for key in ("baseurl", "mirrorlist")
    }
    lines += [f"{key}={printable(' '.join(found))}" for key, found in addresses.items() if found]
    return "\n".join(lines) + "\n" if any(addresses.values()) else ""


def write_variables(target: Path, variables: Mapping[str, tuple[str, ...]]) -> None:
    """Write dnf's variables into a directory of files. Blocking.

    Raises:
        OSError: they cannot be written.
    """
    for name, values in variables.items():
        if name not in ("arch", "basearch", "releasever"):
            (target / name).write_text(values[0] + "\n", encoding="utf-8")


def _expanded(text: str, variables: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """The text with each variable's values; nothing if one is unknown, or there are more than a few."""
    match = _VARIABLE.search(text)
    if len(_VARIABLE.findall(text)) > _MAX_VARIABLES:
        return
    if match is None:
        yield text
        return
    for value in variables.get(match[1] or match[2], ()):
        if not _VARIABLE.search(value):
            yield from _expanded(text[: match.start()] + value + text[match.end() :], variables)


def _files(host: Host, directories: Sequence[str], suffix: str) -> list[Path]:
    found: list[Path] = []
    for directory in directories:
        with contextlib.suppress(OSError):
            real = host.inside(host.path(directory))
            found += [path for path in real.iterdir() if path.name.endswith(suffix)]
    return sorted(found, key=lambda path: path.name)[:_MAX_FILES]
