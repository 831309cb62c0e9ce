# SPDX-License-Identifier: LGPL-2.1-or-later
"""A configuration for pacman, made from the host's own: its repositories, and never less verification.

The host's pacman.conf names directories that the daemon cannot write to, and packages that are never
updated. What is copied are the repositories, the keys' requirements and how files are downloaded; the
options that write elsewhere, hold packages back or run hooks are left out.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..system.disk import write_new
from ..system.files import read_file, read_text
from ..system.printable import printable, quoted
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..host.host import Host

MAIN = "etc/pacman.conf"
KEYRING = "etc/pacman.d/gnupg"

# Public keys in either format, and which of them are trusted (gpg(1), FILES).
_KEYRING = ("pubring.gpg", "pubring.kbx", "trustdb.gpg")
_MAX_KEYRING = 64 << 20  # bytes; Arch Linux's has some 5 MiB
# pacman asks a key server for keys that it does not know, and has each question answered with yes.
_GPG = "no-greeting\nno-permission-warning\nlock-never\nno-autostart\ndisable-dirmngr\n"

_MAX_DEPTH = 10  # of files that include one another, as in pacman
_MAX_FILES = 256
_MAX_LINES = 10_000
_MAX_LINE = 2000  # characters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}")

# pacman.conf(5).
_OPTIONS = ("Architecture", "XferCommand", "DisableDownloadTimeout", "SigLevel", "RemoteFileSigLevel")
_OF_REPOSITORIES = ("Server", "CacheServer", "SigLevel", "Usage")
_SIGNED = ("SigLevel", "LocalFileSigLevel", "RemoteFileSigLevel")
# Read from the left to the right: these win.
_ALWAYS = "PackageRequired PackageTrustedOnly"


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """An assignment of a configuration, with the section that it is in; ``value`` is None without a "="."""

    section: str
    key: str
    value: str | None


def pacman_configuration(host: Host) -> str:
    """The text of a configuration for ``host``. Blocking.

    Raises:
        NotFound: UNREADABLE, the host's configuration cannot be read; UNSUPPORTED, an image has a repository
            that is not on the network.
    """
    options = [f"SigLevel = Required DatabaseOptional {_ALWAYS}"]
    repositories: dict[str, list[str]] = {}
    for line in _read(host):
        if line.section == "options":
            if line.key in _OPTIONS and (line.key != "XferCommand" or host.is_live):
                options.append(_text(line))
        elif _NAME.fullmatch(line.section):
            kept = repositories.setdefault(line.section, [])
            if line.key in _OF_REPOSITORIES:
                _check_server(host, line)
                kept.append(_text(line))
    # Of pacman 7: its sandbox needs root, which a daemon is not.
    options += [f"RemoteFileSigLevel = {_ALWAYS}", "DisableSandbox"]
    sections = {"options": options, **repositories}
    return "".join(f"[{name}]\n" + "".join(f"{text}\n" for text in lines) for name, lines in sections.items())


def copy_keyring(host: Host, target: Path) -> None:
    """Make a directory with the public keys of the host's keyring, and what it says of their trust. Blocking.

    Whatever pacman writes to it is not the host's.

    Raises:
        NotFound: UNREADABLE, the host has no keyring, or one that only root can read.
        OSError: it cannot be written.
    """
    target.mkdir(mode=0o700)
    (target / "gpg.conf").write_text(_GPG, encoding="utf-8")
    for name in _KEYRING:
        path = host.path(KEYRING, name)
        try:
            content = read_file(host.inside(path), _MAX_KEYRING)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NotFound(Reason.UNREADABLE, f"{path} cannot be read: {error.strerror}") from None
        write_new(target / name, content, mode=0o600)
    if not any((target / name).exists() for name in _KEYRING[:2]):
        raise NotFound(Reason.UNREADABLE, f"{host.path(KEYRING)} has no public keys: see pacman-key(8)")


def _text(line: Line) -> str:
    if line.value is None:
        return line.key
    value = f"{line.value} {_ALWAYS}" if line.key in _SIGNED else line.value
    return f"{line.key} = {printable(value)}"


def _check_server(host: Host, line: Line) -> None:
    if host.is_live or not line.key.endswith("Server") or re.match(r"https?://", line.value or ""):
        return
    raise NotFound(
        Reason.UNSUPPORTED,
        f"the repository {line.section} of the image {printable(str(host.root))} has the address "
        f"{quoted(line.value or '')}, and only http and https are used for an image",
    )


def _read(host: Host) -> list[Line]:
    lines: list[Line] = []
    reader = _Reader(host)
    try:
        for line in reader.lines(host.path(MAIN)):
            lines.append(line)
            if len(lines) > _MAX_LINES:
                raise NotFound(Reason.UNREADABLE, f"{host.path(MAIN)} has more than {_MAX_LINES} lines")
    except OSError as error:
        raise NotFound(Reason.UNREADABLE, f"{host.path(MAIN)} cannot be read: {error.strerror}") from None
    return lines


class _Reader:
    """Reads files that include others, which go on in the section that they are included in."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._section = ""
        self._files = 0

    def lines(self, path: Path, depth: int = 0) -> Iterator[Line]:
        self._files += 1
        if depth > _MAX_DEPTH or self._files > _MAX_FILES:
            raise NotFound(Reason.UNREADABLE, f"{path} is one of too many files that include one another")
        for text in read_text(self._host.inside(path), 1 << 20).splitlines():
            stripped = text.strip()[:_MAX_LINE]
            if not stripped or stripped.startswith("#"):
                continue
            if stripped.startswith("[") and stripped.endswith("]"):
                self._section = stripped[1:-1].strip()
                yield Line(self._section, "", None)
                continue
            key, equals, value = (part.strip() for part in stripped.partition("="))
            if key == "Include" and equals:
                for included in self._included(value):
                    yield from self.lines(included, depth + 1)
            else:
                yield Line(self._section, key, value if equals else None)

    def _included(self, pattern: str) -> list[Path]:
        """The files of an ``Include``, whose last component may have wildcards; those that can be found."""
        directory, _, name = pattern.rpartition("/")
        if not directory.startswith("/"):
            return []
        try:
            real = self._host.inside(self._host.path(directory))
            return [real / found for found in sorted(os.listdir(real)) if fnmatch.fnmatchcase(found, name)]
        except OSError:
            return []
