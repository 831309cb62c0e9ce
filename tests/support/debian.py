"""Packages and root directories of any of Debian's suites, whichever of them this machine runs.

Nothing of the machine changes: each suite and architecture has an apt configuration of its own, made from the
machine's sources with the suite's name replaced. All of it is kept in
``${XDG_CACHE_HOME:-~/.cache}/kheadersd-tests``. How it is used::

    from support import debian

    name = debian.newest("trixie", r"linux-headers-6\\.12\\.[0-9]+\\+deb13-arm64", "arm64")
    common = debian.depends("trixie", name, r"linux-headers-\\S+-common", "arm64")
    file = debian.download("trixie", name, "arm64")             # a .deb, to be unpacked by dpkg-deb -x
    root = debian.root("trixie", ["gcc-14", "make"])            # a directory; never write to it
    run(*debian.inside(root, binds=[work]), "make", "-C", work)  # a command in it, as root

What a command in `inside` writes is gone when it ends, except below the directories that are bound. It sees
the network, and where /etc/ssl/certs is bound, pip's certificates::

    certificates = [Path("/etc/ssl/certs")]
    debian.inside(root, binds=[venv], read_only=certificates, environment=["PIP_CERT", "SSL_CERT_FILE"])

`CannotGet` for sid is a reason to skip a test. For every other suite it is a failure.
Needs root, apt, debian-archive-keyring, mmdebstrap and systemd-container.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.support import store
from tests.support.programs import CannotRun, run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_UNPARTED = ("sid", "unstable")  # suites without -updates and -security
_numbers = itertools.count(1)  # of commands inside roots, whose names must differ
_LISTS_AGE = 24 * 3600.0  # seconds; older package lists are fetched again
_ROOTS = 8  # of a suite are kept: several are in use at once
_LEFT_OUT = ("man", "doc", "info", "locale")  # below /usr/share of a root


class CannotGet(Exception):
    """A suite, a package or a root cannot be had; the message says which, and why."""


def architecture() -> str:
    """Debian's name of this machine's architecture."""
    return run("dpkg", "--print-architecture").strip()


def suite() -> str:
    """The code name of the suite that this machine runs.

    Raises:
        CannotGet: it is no Debian.
    """
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            # Sid calls itself as the next release. A root directory of it has no lists that tell.
            codenames = {codename for _, _, codename in _of_debian()}
            is_sid = "sid" in codenames or (not codenames and _is_next_release())
            return "sid" if is_sid else line.partition("=")[2].strip('"')
    raise CannotGet("/etc/os-release has no VERSION_CODENAME=")


def _is_next_release() -> bool:
    return Path("/etc/debian_version").read_text().strip().endswith("/sid")


def sources(suite: str) -> list[str]:
    """The lines of a sources.list for a suite, the release itself first, then its updates.

    They are those by which this machine's apt gets Debian, with the suite's name instead of the machine's.

    Raises:
        CannotGet: this machine's apt has no package lists of Debian.
    """
    found: dict[tuple[str, str], str] = {}  # the part of the suite, and where it is
    for uri, part, base in _of_debian():
        found.setdefault((part, uri), base)
    if not any(part == "" for part, _ in found):
        raise CannotGet("apt has no package lists of Debian here; is 'apt-get update' missing?")
    return [
        f"deb [signed-by={KEYRING}] {uri} {'-'.join(filter(None, (suite, part)))} main"
        for part, uri in sorted(found)
        if part == "" or suite not in _UNPARTED
    ]


def _of_debian() -> Iterator[tuple[str, str, str]]:
    """What of Debian this machine's apt knows: address, part ("", "updates", "security") and suite."""
    wanted = "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)"
    for line in run("apt-get", "indextargets", "--format", wanted, "Created-By: Packages").splitlines():
        origin, uri, codename, component = line.split("|")
        base, _, part = codename.partition("-")
        if origin == "Debian" and component == "main" and part in ("", "updates", "security"):
            yield uri, part, base


def apt(suite: str, tool: str, *arguments: str, architecture: str = "", cwd: Path | None = None) -> str:
    """What one of apt's tools prints that sees nothing but the suite.

    Args:
        architecture: Debian's name of it; this machine's if it is empty.

    Raises:
        CannotGet: the suite's package lists cannot be had, or the tool failed.
    """
    base, wanted = store.directory("apt"), architecture or _this_architecture()
    name = f"{suite}-{wanted}"
    with store.locked(base, name):
        configuration = _up_to_date(base / name, suite, wanted)
        return _run_apt(configuration, tool, *arguments, cwd=cwd)


_this_architecture = architecture


def _up_to_date(place: Path, suite: str, architecture: str) -> Path:
    """The configuration of a suite, whose package lists were fetched within a day if they can be."""
    configuration, fetched = place / "apt.conf", place / "fetched"
    if fetched.exists() and 0 <= time.time() - fetched.stat().st_mtime < _LISTS_AGE:
        return configuration
    for part in ("lists/partial", "archives/partial"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "status").touch()
    (place / "sources.list").write_text("".join(f"{line}\n" for line in sources(suite)))
    configuration.write_text(
        f'Dir::State "{place}"; Dir::State::status "{place}/status"; Dir::Cache "{place}";\n'
        f'Dir::Etc::sourcelist "{place}/sources.list"; Dir::Etc::sourceparts "-";\n'
        'Dir::Etc::preferences "-"; Dir::Etc::preferencesparts "-";\n'
        f'APT::Architecture "{architecture}"; APT::Architectures {{ "{architecture}"; }};\n'
        'APT::Sandbox::User "root"; Acquire::Retries "3";\n'
        'Acquire::Languages "none"; Acquire::GzipIndexes "true";\n'
        # A mirror's copy of a suite may be older than the suite's own limit.
        'Acquire::Check-Valid-Until "false";\n'
    )
    try:
        _run_apt(configuration, "apt-get", "-q", "update", "--error-on=any")
    except CannotGet:
        # Older lists will do, and so will the release without updates that a mirror is just receiving.
        if not any((place / "lists").glob(f"*_dists_{suite}_main_binary-{architecture}_Packages*")):
            raise
    fetched.touch()
    return configuration


def _run_apt(configuration: Path, tool: str, *arguments: str, cwd: Path | None = None) -> str:
    try:
        return run(tool, *arguments, cwd=cwd, env={"APT_CONFIG": str(configuration)})
    except CannotRun as error:
        raise CannotGet(str(error)) from error


def names(suite: str, pattern: str, architecture: str = "") -> list[str]:
    """The packages of a suite whose whole names match, in the order of the versions in their names.

    Args:
        pattern: an extended regular expression as in regex(7).
    """
    listing = apt(suite, "apt-cache", "search", "--names-only", f"^({pattern})$", architecture=architecture)
    found = [line.split()[0] for line in listing.splitlines()]
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"[0-9]+", name)])


def newest(suite: str, pattern: str, architecture: str = "") -> str:
    """The last of `names`.

    Raises:
        CannotGet: there is none.
    """
    if found := names(suite, pattern, architecture):
        return found[-1]
    raise CannotGet(f"{suite} has no package {pattern}")


def depends(suite: str, package: str, pattern: str, architecture: str = "") -> str:
    """The name of the first dependency of a package that is wholly described by a regular expression.

    Raises:
        CannotGet: it has none, or the suite does not have the package.
    """
    listing = apt(suite, "apt-cache", "depends", package, architecture=architecture)
    found = re.search(rf"Depends: ({pattern})(?::\w+)?$", listing, re.MULTILINE)
    if found is None:
        raise CannotGet(f"{package} of {suite} does not depend on any {pattern}")
    return found[1]


def version(suite: str, package: str, architecture: str = "") -> str:
    """The version of a package that a suite has.

    Raises:
        CannotGet: it does not have the package.
    """
    shown = apt(suite, "apt-cache", "show", "--no-all-versions", package, architecture=architecture)
    found = re.search(r"^Version: (\S+)$", shown, re.MULTILINE)
    if found is None:
        raise CannotGet(f"{suite} has no {package}")
    return found[1]


def download(suite: str, package: str, architecture: str = "") -> Path:
    """A package's file, fetched now if none of that name was fetched before.

    Raises:
        CannotGet: it cannot be had.
    """
    place = store.directory(f"packages/{suite}/{package}")
    wanted = architecture or _this_architecture()
    with store.locked(place, wanted):
        found = _file_of(place, wanted)
        if found is None:
            apt(suite, "apt-get", "-q", "download", package, architecture=wanted, cwd=place)
            found = _file_of(place, wanted)
    if found is None:
        raise CannotGet(f"apt-get download {package} of {suite} left no file for {wanted}")
    return found


def _file_of(place: Path, architecture: str) -> Path | None:
    found = [file for name in (architecture, "all") for file in place.glob(f"*_{name}.deb")]
    return found[0] if found else None


def root(suite: str, packages: Iterable[str]) -> Path:
    """A root directory of a suite with Debian's smallest system and these packages, made if it is not kept.

    Nothing may be written to it: use `inside`, or a copy.

    Raises:
        CannotGet: it cannot be made.
    """
    wanted = sorted({*packages})
    key = store.key_of(suite, *wanted)
    return store.kept(f"roots/{suite}", key, lambda made: make_root(made, suite, wanted), keep=_ROOTS)


def make_root(
    made: Path,
    suite: str,
    packages: Sequence[str],
    *,
    variant: str = "minbase",
    options: Iterable[str] = (),
) -> None:
    """Make a root directory as `root` has it, which is the caller's to change.

    Args:
        made: a directory that is empty, or is made.
        variant: of mmdebstrap(1); "extract" has these packages and what they depend on, unpacked.
        options: more of them.

    Raises:
        CannotGet: it cannot be made.
    """
    command = [
        *("mmdebstrap", "--quiet", "--mode=root", f"--variant={variant}", *options),
        *([f"--include={','.join(packages)}"] if packages else []),
        *('--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=Acquire::Languages "none"'),
        '--aptopt=Acquire::Retries "3"',
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in _LEFT_OUT),
        *(suite, str(made)),
    ]
    release, *updates = sources(suite)
    try:
        try:
            run(*command, release, *updates)
        except CannotRun:
            # Without the updates that a mirror is just receiving.
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir(exist_ok=True)
            run(*command, release)
    except CannotRun as error:
        raise CannotGet(str(error)) from error


def inside(
    root: Path,
    *,
    binds: Iterable[Path] = (),
    read_only: Iterable[Path] = (),
    environment: Iterable[str] = (),
) -> list[str]:
    """The beginning of a command line: what follows runs as root in a root directory.

    Args:
        binds: directories and files that it sees and may write to, under the same paths.
        read_only: those that it may only read.
        environment: names of variables that it gets as they are here, where they are set.
    """
    return [
        *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--as-pid2", "--timezone=off"),
        *("--volatile=overlay", "--pipe", f"--directory={root}", "--resolv-conf=copy-host"),
        "--system-call-filter=bpf",  # bcc makes maps when it compiles
        "--link-journal=no",  # which needs an identity of this machine
        f"--machine=tests-{os.getpid()}-{next(_numbers)}",
        *(f"--bind={path}" for path in binds),
        *(f"--bind-ro={path}" for path in read_only),
        *(f"--setenv={name}={os.environ[name]}" for name in environment if name in os.environ),
        "--",
    ]
