"""The archive cut out of an installed kheaders.ko, without loading it: any kernel, running or not."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, ReleaseMismatch
from ..extraction.decompress import whole
from ..system.files import opened, read_start
from ..system.printable import printable
from ..work import in_thread
from . import Nothing, Why
from .archive import MAX_ARCHIVE, archive_from_bytes, stamp_at, stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import Section

    from ..host import Host
    from ..release import Release
    from . import Archive, Report

FILE_NAME = re.compile(r"kheaders\.ko(?:\.gz|\.xz|\.zst)?")
"""The module's file name; kmod reads exactly these compressions."""

MAX_MODULE = MAX_ARCHIVE + 16 * 1024 * 1024
"""Bytes of a module, decompressed or not."""

_STANDARD_PLACE = "kernel/kernel"
_SUFFIXES = ("", ".xz", ".zst", ".gz")
_MAX_MODULES_DEP = 16 * 1024 * 1024
# A full distribution kernel has some 5,000 modules in some 1,000 directories.
_MAX_DIRECTORIES = 20_000
# The module itself has some thirty symbols.
_MAX_SYMBOLS = 100_000
_START, _END = "kernel_headers_data", "kernel_headers_data_end"


class ModuleFileSource:
    """Finds kheaders.ko below /lib/modules/<release> and takes the archive out of it."""

    name = "module-file"

    def __init__(self, host: Host) -> None:
        self._host = host

    async def find(self, release: Release, report: Report) -> Archive:
        """Cut the archive out of the module file of ``release``.

        Raises:
            Nothing: MISSING (no such file) or UNREADABLE.
            ReleaseMismatch: the module's vermagic is another kernel's.
            Corrupt: the file is damaged, or is no module with an archive inside.
        """
        report("looking", 0.0)
        return await in_thread(_find, self._host, release)

    def stamp(self, origin: str) -> str:
        """ "inode:size:mtime_ns" of the module file."""
        return stamp_at(origin)


def _find(host: Host, release: Release) -> Archive:
    path = locate(host, release)
    if path is None:
        directory = host.modules_directory(release)
        raise Nothing(Why.MISSING, f"there is no kheaders.ko below {directory}")
    try:
        module, stamp = _read(path)
    except OSError as error:
        raise Nothing(Why.UNREADABLE, f"{path} cannot be read: {error.strerror}") from error
    data = cut_out(module, str(path), release)
    return archive_from_bytes(data, label=f"the archive in {path}", origin=str(path), origin_stamp=stamp)


def _read(path: Path) -> tuple[bytes, str]:
    """The decompressed module, and the stamp of the very file that was read."""
    with opened(path) as (descriptor, status), open(descriptor, "rb", closefd=False) as file:
        return whole(file, str(path), MAX_MODULE), stamp_of(status)


def locate(host: Host, release: Release) -> Path | None:
    """The real path of the kheaders.ko of ``release``, None if there is none.

    Looks where the kernel's build puts it, then in modules.dep, then everywhere below /lib/modules/<release>
    (weak-updates, updates, a depmod that did not run). Up to some tens of milliseconds.
    """
    try:
        directory = host.resolve(host.modules_directory(release))
    except OSError:
        return None
    for name in _candidates(directory):
        try:
            path = host.resolve(directory / name)
        except OSError:
            continue
        if path.is_file():
            return path
    return None


def _candidates(directory: Path) -> Iterator[str]:
    for suffix in _SUFFIXES:
        yield f"{_STANDARD_PLACE}/kheaders.ko{suffix}"
    yield from _in_modules_dep(directory)
    yield from _in_directories(directory)


def _in_modules_dep(directory: Path) -> Iterator[str]:
    """What depmod(8) noted: lines of "<path below the directory>: <what it needs>"."""
    try:
        listing = read_start(directory / "modules.dep", _MAX_MODULES_DEP)
    except OSError:
        return
    for line in os.fsdecode(listing).splitlines():
        name = line.partition(":")[0]
        if FILE_NAME.fullmatch(name.rpartition("/")[2]):
            yield name.lstrip("/")


def _in_directories(directory: Path) -> Iterator[str]:
    """Everywhere below, without following links to directories ("build" is one), within bounds."""
    pending = [directory]
    for _ in range(_MAX_DIRECTORIES):
        if not pending:
            return
        here = pending.pop()
        try:
            with os.scandir(here) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                # A left-over build directory is a whole source tree.
                if here != directory or entry.name not in ("build", "source"):
                    pending.append(Path(entry.path))
            elif FILE_NAME.fullmatch(entry.name):
                yield str(Path(entry.path).relative_to(directory))


def cut_out(module: bytes, label: str, release: Release) -> bytes:
    """The bytes between kernel_headers_data and kernel_headers_data_end (see the kernel's kernel/kheaders.c).

    A module whose symbol table was stripped altogether is refused and not searched for something that looks
    like xz: no kernel loads such a module, so it is damage and not a variant.

    Args:
        module: an ELF file of either class and byte order, signed or not.
        label: what messages call it.

    Raises:
        ReleaseMismatch: vermagic is of another release than ``release``.
        Corrupt: it is damaged, or no kheaders module.
    """
    # Costs some megabytes, and is needed once in a kernel's life.
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    if not module.startswith(b"\x7fELF"):
        raise Corrupt(f"{label} is not a kernel module: it is no ELF file")
    try:
        # Closed, because what pyelftools makes refers to itself in circles and would keep all of the module.
        with io.BytesIO(module) as stream:
            elf = ELFFile(stream)
            _check_vermagic(elf, module, label, release)
            return _between_symbols(elf, module, label)
    except (
        ELFError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        # What pyelftools raises for headers that contradict each other.
        raise Corrupt(f"{label} is damaged: {error or type(error).__name__}") from error


def _check_vermagic(elf: ELFFile, module: bytes, label: str, release: Release) -> None:
    """The release begins "vermagic", one of the NUL-terminated strings in .modinfo; a space follows."""
    section = elf.get_section_by_name(".modinfo")
    content = b"" if section is None else _content(section, module, label)
    for entry in content.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"vermagic":
            if not (value + b" ").startswith(release.encode() + b" "):
                theirs = printable(value.split(b" ")[0], 80)
                raise ReleaseMismatch(f"{label} is of kernel {theirs}, not of {release}")
            return
    raise Corrupt(f"{label} is not a kernel module: it has no vermagic")


def _between_symbols(elf: ELFFile, module: bytes, label: str) -> bytes:
    from elftools.elf.sections import SymbolTableSection

    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        raise Corrupt(f"{label} has no symbol table: it was stripped so far that no kernel loads it")
    count = table.num_symbols()
    if count > _MAX_SYMBOLS:
        raise Corrupt(f"{label} claims to have {count} symbols")
    symbols = {symbol.name: symbol for symbol in table.iter_symbols() if symbol.name in (_START, _END)}
    if len(symbols) != 2:
        raise Corrupt(f"{label} has no {_START}: it is not the kheaders module")
    start, end = symbols[_START], symbols[_END]
    index = start["st_shndx"]
    if not isinstance(index, int) or end["st_shndx"] != index:
        raise Corrupt(f"{label} is damaged: {_START} and its end are not in one section")
    content = _content(elf.get_section(index), module, label)
    if not start["st_value"] < end["st_value"] <= len(content):
        raise Corrupt(f"{label} is damaged: {_START} is not inside its section")
    return bytes(content[start["st_value"] : end["st_value"]])


def _content(section: Section, module: bytes, label: str) -> bytes:
    """The bytes of a section, which must all be in the file."""
    offset, size = section["sh_offset"], section["sh_size"]
    if section["sh_type"] == "SHT_NOBITS" or offset + size > len(module):
        raise Corrupt(f"{label} is damaged: the content of section {section.name} is not in the file")
    return module[offset : offset + size]
