# SPDX-License-Identifier: LGPL-2.1-or-later
"""What apt prints, read: the stanzas of its lists, their dependencies, its progress and its complaints."""

from __future__ import annotations

import dataclasses
import re

from ..errors import Corrupt, LimitsExceeded, NoSpace
from ..system.printable import printable, without_secrets
from .source import NotFound, Reason

_MAX_DEPENDENCIES = 3

# Debian's linux-headers-6.1.0-56-common; Ubuntu's linux-headers-6.8.0-31 and linux-hwe-6.8-headers-6.8.0-40.
# Not linux-kbuild-6.1, linux-image-…, gcc.
_HEADERS_PACKAGE = re.compile(r"linux-(?:[a-z0-9.+-]+-)?headers-[0-9][a-z0-9.+-]*")
_DEPENDENCY = re.compile(
    r"\s*([a-z0-9][a-z0-9.+-]+)(?::[a-z0-9]+)?\s*(?:\(\s*=\s*([A-Za-z0-9][A-Za-z0-9.+~:-]*)\s*\))?"
)

_PROGRESS = re.compile(r"dlstatus:\d+:(\d+(?:\.\d+)?):")
_FULL = re.compile(r"No space left on device|Disk quota exceeded|enough free space", re.IGNORECASE)
_UNVERIFIED = re.compile(
    r"Hash Sum mismatch|unexpected size|(?:cannot|could not) be authenticated|unauthenticated packages"
    r"|Insufficient information available",
    re.IGNORECASE,
)
_GONE = re.compile(r"\b404\b|File not found|No such file|Can't find a source|was not found", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """What apt's lists say about one version of a package.

    Attributes:
        size: of the .deb, in bytes.
        sha256: of the .deb, in hex; "" if the lists give another digest, which apt checks then.
        depends: the field as it is.
    """

    name: str
    version: str
    architecture: str
    size: int
    sha256: str
    depends: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class OutdatedError(Exception):
    """The lists in use do not have the package, or have one that is not there any more."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def find_package(output: str, name: str, version: str = "") -> Package | None:
    """The package of exactly this name, and version if one is given, in the output of ``apt-cache show``.

    None also for one that is known and could not be downloaded.
    """
    packages = (_package(stanza) for stanza in output.split("\n\n"))
    return next((p for p in packages if p and p.name == name and version in ("", p.version)), None)


def _package(stanza: str) -> Package | None:
    fields: dict[str, str] = {}
    for line in stanza.splitlines():
        key, colon, value = line.partition(":")
        if colon and not line.startswith((" ", "\t")):
            fields[key.lower()] = value.strip()
    size = fields.get("size", "")
    if not fields.get("version") or not fields.get("filename") or not size.isdecimal():
        return None
    return Package(
        name=fields.get("package", ""),
        version=fields["version"],
        architecture=fields.get("architecture", ""),
        size=int(size),
        sha256=fields.get("sha256", "").lower(),
        depends=fields.get("depends", ""),
    )


def header_dependencies(package: Package) -> list[tuple[str, str]]:
    """Name and exact version, or "", of the packages that have the rest of the headers.

    Raises:
        LimitsExceeded: there are more than three; real packages have one.
    """
    matches = (_DEPENDENCY.match(dependency) for dependency in package.depends.split(","))
    found = [(m[1], m[2] or "") for m in matches if m and _HEADERS_PACKAGE.fullmatch(m[1])]
    if len(found) > _MAX_DEPENDENCIES:
        raise LimitsExceeded(
            f"{package} depends on {len(found)} packages with headers, and {_MAX_DEPENDENCIES} are accepted"
        )
    return found


def fraction_done(line: str) -> float | None:
    """The fraction, 0 to 1, of a line that apt wrote to APT::Status-Fd; None for another line."""
    match = _PROGRESS.match(line)
    return min(float(match[1]) / 100, 1.0) if match else None


def is_disk_full(complaints: str) -> bool:
    """Whether apt complained about a full disk."""
    return _FULL.search(complaints) is not None


def download_failure(names: str, complaints: str) -> Exception:
    """What a failed ``apt-get download`` of the packages ``names`` means.

    Returns:
        NoSpace, Corrupt (not verifiable), OutdatedError (not there any more), or NotFound (not to be had
        now).
    """
    told = summary(complaints)
    if is_disk_full(complaints):
        return NoSpace(f"{names} cannot be downloaded, the disk is full: {told}")
    if _UNVERIFIED.search(complaints):
        return Corrupt(f"apt refused {names}, which it could not verify: {told}")
    if _GONE.search(complaints):
        return OutdatedError(f"apt knows {names}, which is not there any more: {told}")
    return NotFound(Reason.UNREADABLE, f"{names} cannot be downloaded: {told}")


def summary(complaints: str) -> str:
    """The first three lines of what apt complained about, errors first, without passwords; "" if none."""
    lines = [line.strip() for line in without_secrets(complaints).splitlines()]
    told = [line[:200] for line in lines if line.startswith(("E:", "W:", "Err:"))]
    told.sort(key=lambda line: not line.startswith("E:"))
    return printable("; ".join(told[:3]))
