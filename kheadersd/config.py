# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration: one frozen `Config`, read from files in systemd's style.

Nothing in a file stops the daemon: what cannot be understood becomes a `Problem` that names the file and the
line, and the default is used.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from .errors import InvalidArgs
from .journal import LEVELS
from .names import SOURCE_NAMES
from .repository import Repository, parse_repository
from .system.files import read_file
from .system.printable import printable

MAIN_FILE = Path("/etc/kheadersd.conf")
DROPIN_DIRECTORIES = (Path("/etc/kheadersd.conf.d"), Path("/usr/lib/kheadersd.conf.d"))
"""Where drop-ins are, the directory that wins first."""

LOADERS = ("auto", "systemd", "modprobe", "none")

_MAX_FILE = 1 << 20  # bytes; a configuration is a page, and a log file given by mistake is not read whole
_MAX_REPOSITORIES = 8
_SHOWN = 60  # characters of foreign text in a message

_MAX_ADDRESSES = 8
# With the variables of the package managers, such as $basearch.
_ADDRESS = r"(https?://[A-Za-z0-9\[]|file:///)[A-Za-z0-9._~:/$+&?\[\]{}%-]{0,1000}"
_COMPILER = r"clang(-[0-9]{1,2})?"
# The words of systemd.syntax(7).
_BOOLEANS = dict.fromkeys(("1", "yes", "y", "true", "t", "on"), True) | dict.fromkeys(
    ("0", "no", "n", "false", "f", "off"), False
)

_KIB = 1024
_SIZE_UNITS = {"": 1, "B": 1, "K": _KIB, "M": _KIB**2, "G": _KIB**3, "T": _KIB**4}

# The spellings of systemd.time(7); seconds where there is no unit.
_TIME_UNITS = {
    **dict.fromkeys(("usec", "us", "µs", "μs"), 1e-6),
    **dict.fromkeys(("msec", "ms"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
    **dict.fromkeys(("M", "month", "months"), 30.44 * 86400),
    **dict.fromkeys(("y", "year", "years"), 365.25 * 86400),
}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([^\s0-9.]*)", re.ASCII)

Parse = Callable[[str], object]
"""Turns the text of an assignment into a value; ValueError says what was expected instead."""


def parse_size(text: str) -> int:
    """Bytes: a number, with K, M, G or T for powers of 1024.

    Raises:
        ValueError: it is something else.
    """
    match = _QUANTITY.fullmatch(text)
    unit = match and _SIZE_UNITS.get(match[2])
    if not match or not unit or len(match[1]) > 18:
        raise ValueError("a size, such as 512M or 2G")
    return int(float(match[1]) * unit)


def parse_seconds(text: str) -> float:
    """Seconds: one or more numbers with units as in systemd.time(7), added up: "30s", "2h 30min", "1w".

    Raises:
        ValueError: it is something else.
    """
    total, position = 0.0, 0
    while position < len(text):
        match = _QUANTITY.match(text, position)
        unit = match and _TIME_UNITS.get(match[2])
        if not match or not unit or len(match[1]) > 18:
            position = 0
            break
        total += float(match[1]) * unit
        position = match.end()
    if position == 0:
        raise ValueError("a time, such as 30s, 5min or 30d")
    return total


def _count(minimum: int, maximum: int = 1 << 31) -> Parse:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not minimum <= int(text) <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def _at_least_one_second(text: str) -> float:
    if (seconds := parse_seconds(text)) < 1:
        raise ValueError("a time of at least 1s")
    return seconds


def _at_least_one_mebibyte(text: str) -> int:
    if (size := parse_size(text)) < 1 << 20:
        raise ValueError("a size of at least 1M")
    return size


def _or_infinity(parse: Parse) -> Parse:
    """``parse``, and None for "infinity"."""

    def parse_limit(text: str) -> object:
        if text == "infinity":
            return None
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{error}, or infinity") from None

    return parse_limit


def _choice(names: Sequence[str]) -> Parse:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError("one of " + ", ".join(names))
        return text

    return parse


def _sources(text: str) -> tuple[str, ...]:
    names = tuple(text.split())
    if len(set(names)) < len(names) or not set(names) <= set(SOURCE_NAMES):
        raise ValueError("some of " + " ".join(SOURCE_NAMES) + ", each at most once")
    return names


def _addresses(text: str) -> tuple[str, ...]:
    addresses = tuple(text.split())
    if (
        len(addresses) > _MAX_ADDRESSES
        or len(set(addresses)) < len(addresses)
        or not all(_is_name(_ADDRESS, address) and ".." not in address for address in addresses)
    ):
        raise ValueError(
            f"at most {_MAX_ADDRESSES} addresses, each once, that begin with https://, http:// or file:///, "
            "without user names"
        )
    return addresses


def _names(pattern: str, example: str, most: int) -> Parse:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split())
        if (
            len(names) > most
            or len(set(names)) < len(names)
            or not all(_is_name(pattern, name) for name in names)
        ):
            raise ValueError(f"at most {most} names such as {example}, each once")
        return names

    return parse


def _is_name(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern, name, re.ASCII) is not None


def _boolean(text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError("yes or no")
    return _BOOLEANS[text.lower()]


def _directory(text: str) -> Path:
    path = Path(os.path.normpath(text))
    if not path.is_absolute() or len(path.parts) < 2 or not text.isprintable() or len(text) > 1024:
        raise ValueError("the absolute path of a directory other than /")
    return path


def _text_file(text: str) -> Path:
    path = Path(os.path.normpath(text))
    if not path.is_absolute() or path.suffix != ".prom" or not text.isprintable() or len(text) > 1024:
        raise ValueError("the absolute path of a file whose name ends in .prom")
    return path


def _directories(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(word) for word in text.split())
    if len(paths) > 16 or any(not path.is_absolute() or ".." in path.parts for path in paths):
        raise ValueError("absolute paths of at most 16 directories, in which * stands for any name")
    return paths


def _compiler(text: str) -> str:
    if not _is_name(_COMPILER, text):
        raise ValueError("the name of a compiler, such as clang-16")
    return text


def _repositories(text: str) -> tuple[Repository, ...]:
    words = text.split()
    if len(words) > _MAX_REPOSITORIES or len(set(words)) < len(words):
        raise ValueError(f"at most {_MAX_REPOSITORIES} repositories, each once")
    try:
        return tuple(map(parse_repository, words))
    except InvalidArgs:
        raise ValueError(
            "a list of REGISTRY/REPOSITORY without tags, each with or without @sha256:DIGEST"
        ) from None


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts or not text.isprintable() or len(text) > 1024:
        raise ValueError("the absolute path of a file")
    return path


def _key(section: str, name: str, parse: Parse) -> dict[str, Any]:
    """What says that a field of `Config` is set by ``name=`` in ``[section]``."""
    return {"key": (section, name), "parse": parse}


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """All settings. A limit of None is "infinity": there is none."""

    sources: tuple[str, ...] = field(default=SOURCE_NAMES, metadata=_key("Headers", "Sources", _sources))
    """Where headers are looked for, in this order. A later assignment replaces the list."""

    extra_repositories: tuple[str, ...] = field(
        default=(), metadata=_key("Headers", "ExtraRepositories", _addresses)
    )
    """Addresses of archives with packages of old kernels, for dnf, zypper and pacman."""

    cache_directory: Path = field(
        default=Path("/var/cache/kheaders"), metadata=_key("Cache", "Directory", _directory)
    )
    """The cache. No other user than the daemon's may be able to write to it."""

    max_entries: int | None = field(default=8, metadata=_key("Cache", "MaxEntries", _or_infinity(_count(0))))
    """Entries that are kept. Those of the running and of installed kernels count and always stay."""

    max_size: int | None = field(default=2 << 30, metadata=_key("Cache", "MaxSize", _or_infinity(parse_size)))
    """Bytes on disk that the cache may take, apart from what always stays."""

    max_age: float | None = field(
        default=30 * 86400.0, metadata=_key("Cache", "MaxAge", _or_infinity(parse_seconds))
    )
    """Seconds after its last use for which an entry is kept."""

    max_leases: int = field(default=1024, metadata=_key("Limits", "MaxLeases", _count(1, 65536)))
    """Leases in all."""

    max_leases_per_user: int = field(
        default=32, metadata=_key("Limits", "MaxLeasesPerUser", _count(1, 65536))
    )
    """Leases of one user; root is exempt. dbus-daemon reads nothing more from a connection while 64
    descriptors that it sent still wait there (max_incoming_unix_fds): a user who never reads the answers must
    not reach that number."""

    max_files: int = field(default=100_000, metadata=_key("Limits", "MaxFiles", _count(1)))
    """Files in one archive."""

    max_bytes: int = field(default=1 << 30, metadata=_key("Limits", "MaxBytes", _at_least_one_mebibyte))
    """Bytes in one archive, uncompressed."""

    extract_timeout: float | None = field(
        default=300.0, metadata=_key("Limits", "ExtractTimeout", _or_infinity(_at_least_one_second))
    )
    """Seconds that finding and extracting local headers may take."""

    download_timeout: float | None = field(
        default=900.0, metadata=_key("Limits", "DownloadTimeout", _or_infinity(_at_least_one_second))
    )
    """Seconds that fetching a package, or from a registry, may take."""

    compile_timeout: float | None = field(
        default=120.0, metadata=_key("Limits", "CompileTimeout", _or_infinity(_at_least_one_second))
    )
    """Seconds that one run of a compiler may take."""

    max_pchs: int = field(default=32, metadata=_key("Limits", "MaxPCHs", _count(1, 256)))
    """Precompiled headers of one entry; then the one that was not used for the longest time makes room."""

    compiler: str = field(default="", metadata=_key("Compile", "Compiler", _compiler))
    """The compiler of callers who name none: the newest that there is, unless set."""

    compiler_directories: tuple[Path, ...] = field(
        default=(Path("/usr/bin"), Path("/usr/local/bin"), Path("/usr/lib/llvm-*/bin")),
        metadata=_key("Compile", "Directories", _directories),
    )
    """Where compilers are looked for, in this order. Only what root alone can change is run."""

    ahead_profiles: tuple[str, ...] = field(
        default=(),
        metadata=_key("Ahead", "Profiles", _names(r"[a-z0-9][a-z0-9_-]{0,63}", "bpf-core", 16)),
    )
    """Profiles whose precompiled headers are made before a caller asks."""

    ahead_compilers: tuple[str, ...] = field(
        default=(), metadata=_key("Ahead", "Compilers", _names(_COMPILER, "clang-16", 4))
    )
    """The compilers that they are made with, apart from those for bcc; () for the default one."""

    ahead_drop_headers: bool = field(default=False, metadata=_key("Ahead", "DropHeaders", _boolean))
    """Whether the headers are dropped once all of these are made."""

    shared_bus: bool = field(default=False, metadata=_key("Access", "SharedBus", _boolean))
    """Whether containers share the bus: root of another container is then an ordinary user."""

    without_polkit: tuple[str, ...] = field(
        default=("extract",),
        metadata=_key("Access", "WithoutPolkit", _names("extract|download", "extract", 2)),
    )
    """What every user may do where no polkit runs."""

    registries: tuple[Repository, ...] = field(
        default=(), metadata=_key("Registry", "Registry", _repositories)
    )
    """Repositories that headers are fetched from, in this order; the first takes what is pushed unasked."""

    registry_first: bool = field(default=False, metadata=_key("Registry", "RegistryFirst", _boolean))
    """Whether the headers of installed kernels are fetched ahead of any need, if a registry has them."""

    registry_unsigned: bool = field(default=False, metadata=_key("Registry", "RegistryUnsigned", _boolean))
    """Whether headers are taken although the host's policy accepts anything."""

    push_new: bool = field(default=False, metadata=_key("Registry", "PushNew", _boolean))
    """Whether headers that were extracted here are pushed to the first registry, if it has none."""

    push_new_pchs: bool = field(default=False, metadata=_key("Registry", "PushNewPchs", _boolean))
    """Whether, with `push_new`, also what was precompiled here is pushed, and vmlinux.h."""

    push_signing_key: Path | None = field(default=None, metadata=_key("Registry", "PushSigningKey", _file))
    """The file with the private key that signs what is pushed."""

    push_pch_signing_key: Path | None = field(
        default=None, metadata=_key("Registry", "PushPchSigningKey", _file)
    )
    """The file with the private key that signs the precompiled headers that are pushed."""

    pch_key: Path | None = field(default=None, metadata=_key("Registry", "PchKey", _file))
    """The file with the public key whose precompiled headers are taken; None to take none."""

    loader: str = field(default="auto", metadata=_key("Module", "Loader", _choice(LOADERS)))
    """How the kheaders module is loaded; "auto" is the service manager where it runs, else modprobe."""

    metrics_file: Path | None = field(default=None, metadata=_key("Metrics", "TextFile", _text_file))
    """The file with metrics for the textfile collector of Prometheus' node exporter; None for no file."""

    log_level: str = field(default="info", metadata=_key("Log", "Level", _choice(LEVELS)))
    """The least important entries that are logged."""


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that was not understood; ``line`` counts from 1, 0 is the file as a whole."""

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.message}"


def changes(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, such as "MaxAge=", in the order of `Config`."""
    return [
        setting.metadata["key"][1] + "="
        for setting in dataclasses.fields(Config)
        if getattr(old, setting.name) != getattr(new, setting.name)
    ]


_FIELDS = {setting.metadata["key"]: setting for setting in dataclasses.fields(Config)}
_SECTIONS = {section for section, _ in _FIELDS}


def load(
    main: Path = MAIN_FILE, dropins: Sequence[Path] = DROPIN_DIRECTORIES, *, required: bool = False
) -> tuple[Config, tuple[Problem, ...]]:
    """Read ``main`` and then the drop-ins, which win over it, in the order of their names.

    Args:
        dropins: directories with ``*.conf`` files, the one that wins first: of files with one name only the
            first is read, so that an empty file or a link to /dev/null in /etc hides one in /usr/lib. Empty
            when the caller named one file to read.
        required: whether it is a problem when ``main`` does not exist.

    Never raises for what is in the files, nor for files that cannot be read.
    """
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for path in (main, *_dropin_files(dropins, problems)):
        text = _read(path, problems, missing_is_fine=path == main and not required)
        problems.extend(_apply(path, text, values))
    return dataclasses.replace(Config(), **values), tuple(problems)  # type: ignore[arg-type]


def _dropin_files(directories: Sequence[Path], problems: list[Problem]) -> list[Path]:
    files: dict[str, Path] = {}
    for directory in directories:
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(Problem(directory, 0, f"cannot be read: {error.strerror}"))
            continue
        for name in names:
            if name.endswith(".conf") and not name.startswith("."):
                files.setdefault(name, directory / name)
    return [files[name] for name in sorted(files)]


def _read(path: Path, problems: list[Problem], *, missing_is_fine: bool) -> str:
    try:
        data = _read_bytes(path)
        if b"\0" in data:
            raise ValueError("has NUL bytes, so it is not a text file")
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        if missing_is_fine:
            return ""
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(Problem(path, line, "is not UTF-8 text; the whole file is ignored"))
        return ""
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except ValueError as error:
        reason = f"{error}"
    problems.append(Problem(path, 0, f"{reason}; the file is ignored"))
    return ""


def _read_bytes(path: Path) -> bytes:
    status = path.stat()
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == Path(os.devnull).stat().st_rdev:
        return b""  # how a file is masked
    return read_file(path, _MAX_FILE)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with the number of their first one; comments left out, lines ending in a backslash joined."""
    start, pending = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith(("#", ";")):
            continue
        start = start if pending else number
        if stripped.endswith("\\"):
            pending += stripped[:-1] + " "
            continue
        if joined := (pending + stripped).strip():
            yield start, joined
        pending = ""
    if pending.strip():
        yield start, pending.strip()


def _apply(path: Path, text: str, values: dict[str, object]) -> Iterator[Problem]:
    """Put the assignments of one file into ``values``, by the names of `Config`."""
    section: str | None = None
    for number, line in _logical_lines(text):
        if line.startswith("["):
            section = line[1:-1] if line.endswith("]") else ""
            if section not in _SECTIONS:
                yield Problem(path, number, f"unknown section {_shown(line)}; all of it is ignored")
        elif "=" not in line:
            yield Problem(
                path, number, f"{_shown(line)} is neither a section nor an assignment; it is ignored"
            )
        elif section is None:
            yield Problem(path, number, f"{_shown(line)} comes before the first section; it is ignored")
        elif section in _SECTIONS:  # one warning is enough for an unknown section
            name, _, value = (part.strip() for part in line.partition("="))
            if message := _assign(section, name, value, values):
                yield Problem(path, number, message)


def _assign(section: str, name: str, value: str, values: dict[str, object]) -> str:
    """Set one value, or go back to the default; what is wrong with it, or ``""``."""
    setting = _FIELDS.get((section, name))
    if setting is None:
        return f"unknown key {_shown(name)} in [{section}]; it is ignored"
    values.pop(setting.name, None)
    if not value:
        return ""
    try:
        values[setting.name] = setting.metadata["parse"](value)
    except ValueError as error:
        return f"{name}={_shown(value)} is not {error}; the default is used"
    return ""


def _shown(text: str) -> str:
    return printable(text, _SHOWN)
