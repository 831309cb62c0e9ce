# SPDX-License-Identifier: LGPL-2.1-or-later
"""The archive cut out of an installed kheaders.ko, without loading it: any kernel, running or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import Corrupt, ReleaseMismatch
from ..formats import elf
from ..formats.decompress import whole
from ..formats.file_slice import MemorySlice
from ..host.module_file import locate
from ..names import MODULE_FILE
from ..system.file_identity import stored_identity
from ..system.files import opened
from ..system.printable import has_controls, printable, quoted
from ..system.tasks import in_thread
from .kernel_archive import MAX_ARCHIVE, archive_from_bytes
from .source import NotFound, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from ..formats.file_slice import FileSlice
    from ..host.host import Host
    from ..progress import Report
    from ..release import Release
    from .source import Archive

MAX_MODULE = MAX_ARCHIVE + 16 * 1024 * 1024
"""Bytes of a module, decompressed or not."""

_MAX_MODINFO = 64 * 1024
_START, _END = b"kernel_headers_data", b"kernel_headers_data_end"


class ModuleFileSource:
    """Finds kheaders.ko below /lib/modules/<release> and takes the archive out of it."""

    name = MODULE_FILE

    def __init__(self, host: Host) -> None:
        self._host = host

    async def find(self, release: Release, report: Report) -> Archive:
        """Cut the archive out of the module file of ``release``.

        Raises:
            NotFound: MISSING (no such file) or UNREADABLE.
            ReleaseMismatch: the module's vermagic is another kernel's.
            Corrupt: the file is damaged, or is no module with an archive inside.
        """
        report("looking", 0.0)
        return await in_thread(_find, self._host, release)


def _find(host: Host, release: Release) -> Archive:
    path = locate(host, release)
    if path is None:
        directory = host.modules_directory(release)
        raise NotFound(Reason.MISSING, f"there is no kheaders.ko below {directory}")
    if has_controls(str(path)):
        raise NotFound(
            Reason.UNREADABLE,
            f"{quoted(str(path))} is not used: no caller could be told its name, which is not UTF-8 or has "
            "control characters",
        )
    try:
        module, stamp = _read(path)
    except OSError as error:
        raise NotFound(Reason.UNREADABLE, f"{path} cannot be read: {error.strerror}") from error
    data = cut_out(module, str(path), release)
    return archive_from_bytes(data, label=f"the archive in {path}", origin=str(path), origin_stamp=stamp)


def _read(path: Path) -> tuple[bytes, str]:
    """The decompressed module, and the stamp of the very file that was read."""
    with opened(path) as (descriptor, status), open(descriptor, "rb", closefd=False) as file:
        return whole(file, str(path), MAX_MODULE), stored_identity(status)


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
    if not module.startswith(elf.MAGIC):
        raise Corrupt(f"{label} is not a kernel module: it is no ELF file")
    content = MemorySlice(memoryview(module), label)
    found = elf.sections(content, (".modinfo", ".symtab", ".strtab"))
    _check_vermagic(found.get(".modinfo"), label, release)
    if ".symtab" not in found or ".strtab" not in found:
        raise Corrupt(f"{label} has no symbol table: it was stripped so far that no kernel loads it")
    symbols = elf.symbols(content, found[".symtab"], found[".strtab"], (_START, _END))
    if len(symbols) != 2:
        raise Corrupt(f"{label} has no {_START.decode()}: it is not the kheaders module")
    (start, index), (end, of_end) = symbols[_START], symbols[_END]
    if index != of_end:
        raise Corrupt(f"{label} is damaged: {_START.decode()} and its end are not in one section")
    data = elf.section(content, index)
    if not start < end <= data.size:
        raise Corrupt(f"{label} is damaged: {_START.decode()} is not inside its section")
    if end - start > MAX_ARCHIVE:
        raise Corrupt(f"{label} has an archive of {end - start} bytes, more than {MAX_ARCHIVE}")
    return data.at(start, end - start)


def _check_vermagic(modinfo: FileSlice | None, label: str, release: Release) -> None:
    """The release begins "vermagic", one of the NUL-terminated strings in .modinfo; a space follows."""
    content = b"" if modinfo is None else modinfo.up_to(0, _MAX_MODINFO)
    for entry in content.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"vermagic":
            if not (value + b" ").startswith(release.encode() + b" "):
                theirs = printable(value.split(b" ")[0], 80)
                raise ReleaseMismatch(f"{label} is of kernel {theirs}, not of {release}")
            return
    raise Corrupt(f"{label} is not a kernel module: it has no vermagic")
