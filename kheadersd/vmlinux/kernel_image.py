# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads the BTF in a kernel's image: vmlinux as it was linked, or the file that a boot loader loads.

A compressed kernel is decompressed to an unnamed temporary file and read piece by piece: neither the image
nor the kernel is ever whole in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import os
import re
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError, NoSpace, ReleaseMismatch
from ..formats import btf as blob
from ..formats import elf, payload
from ..formats.file_slice import FileSlice
from ..sources.source import NotFound, Reason
from ..system.disk import is_full, write_all
from ..system.file_identity import stored_identity
from ..system.files import opened
from ..system.printable import printable
from ..system.tasks import Cancelled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..release import Release

MAX_IMAGE = 128 * 1024 * 1024
"""Bytes of an image with a compressed kernel. Real ones have 5 to 60 MB."""

MAX_KERNEL = 1024 * 1024 * 1024
"""Bytes of the kernel in it, decompressed. Real ones have 20 to 120 MB; vmlinux on disk may be larger."""

# "Linux version <release> (<builder>) ...", linux_banner in the kernel's init/version-timestamp.c.
# A release has up to 64 bytes.
_BANNER = re.compile(rb"Linux version ([^\x00-\x1f\x7f]{1,64} \()")
_MAX_BANNER = 96
_MAX_NOTES = 64 * 1024
_MAX_CANDIDATES = 10_000
_MAX_TRIED = 16


@dataclasses.dataclass(frozen=True, slots=True)
class FromImage:
    """The BTF of an image.

    Attributes:
        btf: checked by `blob.check`.
        build_id: the kernel's GNU build-id in hex, "" where the format does not show it.
        stamp: the identity, without the device, of the very file that was read.
    """

    btf: bytes
    build_id: str
    stamp: str


def read_image(path: Path, release: Release, scratch: Path, cancelled: threading.Event) -> FromImage:
    """The BTF in the image at ``path``; up to some seconds, blocking.

    Args:
        path: without links that lead out of the host.
        release: that of the kernel.
        scratch: a directory for an unnamed temporary file of the kernel's size.
        cancelled: ends it early.

    Raises:
        NotFound: MISSING, UNREADABLE, INCOMPLETE (the kernel was built without BTF), or UNSUPPORTED (an
            unknown kind of image or of compression).
        ReleaseMismatch: it is another kernel.
        Corrupt: it is damaged, or larger than anything real.
        NoSpace: there is no room in ``scratch``.
        KheadersError: ``scratch`` cannot be written to.
        Cancelled: ``cancelled`` was set.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor, status = stack.enter_context(opened(path))
            return _Reading(release, scratch, cancelled, stack).read(FileSlice(descriptor, str(path)), status)
        except OSError as error:
            raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> NotFound:
    """Why a file was not read: it is missing, or what the error says."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(Reason.MISSING, f"there is no {path}")
    return NotFound(Reason.UNREADABLE, f"{path} cannot be read: {error.strerror}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """Reads one image; ``stack`` closes the temporary file."""

    release: Release
    scratch: Path
    cancelled: threading.Event
    stack: contextlib.ExitStack

    def read(self, image: FileSlice, status: os.stat_result) -> FromImage:
        kernel = self._kernel(image)
        if kernel.up_to(0, 4) == elf.MAGIC:
            btf, build_id = self._from_elf(kernel)
        elif _is_flat(kernel):
            btf, build_id = self._from_flat(kernel), ""
        else:
            raise NotFound(Reason.UNSUPPORTED, f"{image.label} is not a kernel image of a known kind")
        blob.check(btf, image.label)
        return FromImage(btf, build_id, stored_identity(status))

    def _kernel(self, image: FileSlice) -> FileSlice:
        """The kernel in an image, or the image if nothing in it is compressed."""
        head = image.up_to(0, 16)
        if head.startswith(elf.MAGIC):
            return image
        if image.size > MAX_IMAGE:
            raise Corrupt(f"{image.label} has {image.size} bytes, more than the limit of {MAX_IMAGE}")
        if head.startswith(b"MZ\0\0zimg"):
            # drivers/firmware/efi/libstub/zboot-header.S
            offset, size = struct.unpack("<II", head[8:16])
            return self._decompressed(image.part(offset, size))
        if image.up_to(0x202, 4) == b"HdrS":
            packed, size = _of_boot_protocol(image)
            kernel = self._decompressed(packed)
            if size != kernel.size:
                raise Corrupt(f"the compressed kernel in {image.label} is cut short, or damaged")
            return kernel
        return self._decompressed(image) if payload.is_compressed(head) else image

    def _decompressed(self, packed: FileSlice) -> FileSlice:
        """A temporary file with the decompressed content of ``packed``."""
        # Needed once for a kernel, and imports much.
        import tempfile

        with self._room():
            file = tempfile.TemporaryFile(dir=self.scratch)  # noqa: SIM115 - the stack closes it
        kernel = self.stack.enter_context(file).fileno()
        size = 0
        try:
            for piece in payload.decompress(packed):
                if self.cancelled.is_set():
                    raise Cancelled
                size += len(piece)
                if size > MAX_KERNEL:
                    raise Corrupt(f"the kernel in {packed.label} has more than {MAX_KERNEL} bytes")
                with self._room():
                    write_all(kernel, piece)
        except payload.UnknownCompression as error:
            raise NotFound(Reason.UNSUPPORTED, str(error)) from error
        return FileSlice(kernel, packed.label)

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if is_full(error):
                raise NoSpace(f"there is no room in {self.scratch} to decompress a kernel") from error
            raise KheadersError(f"cannot decompress a kernel in {self.scratch}: {error.strerror}") from error

    def _from_elf(self, kernel: FileSlice) -> tuple[bytes, str]:
        found = elf.sections(kernel, (".BTF", ".rodata", ".notes"))
        section = found.get(".BTF")
        if section is None:
            raise _without_btf(kernel)
        self._check_release(found.get(".rodata", kernel))
        if section.size > blob.MAX_BTF:
            raise Corrupt(
                f"{kernel.label} has {section.size} bytes of BTF, more than the limit of {blob.MAX_BTF}"
            )
        notes = found[".notes"].up_to(0, _MAX_NOTES) if ".notes" in found else b""
        return section.at(0, section.size), elf.build_id_in(notes)

    def _from_flat(self, kernel: FileSlice) -> bytes:
        """The first BTF of a kernel in an image without section headers."""
        self._check_release(kernel)
        tried = 0
        for offset, _ in itertools.islice(kernel.find(blob.LITTLE_ENDIAN, 4), _MAX_CANDIDATES):
            with contextlib.suppress(Corrupt):
                size = blob.parts(kernel.up_to(offset, blob.HEADER), kernel.label).end
                candidate = kernel.at(offset, size)
                tried += 1
                blob.check(candidate, kernel.label)
                return candidate
            if tried == _MAX_TRIED:
                break
        raise _without_btf(kernel)

    def _check_release(self, where: FileSlice) -> None:
        found = ""
        for _, match in itertools.islice(where.find(_BANNER, _MAX_BANNER), _MAX_CANDIDATES):
            if match[1].startswith(self.release.encode() + b" ("):
                return
            found = printable(match[1].partition(b" (")[0])
        if found:
            raise ReleaseMismatch(f"{where.label} is kernel {found}, not {self.release}")
        raise Corrupt(f"{where.label} has no version of a kernel")


def _of_boot_protocol(image: FileSlice) -> tuple[FileSlice, int]:
    """The compressed kernel in an x86 image, and its size after decompression.

    See the kernel's Documentation/arch/x86/boot.rst: setup_sects, version, payload_offset, payload_length.
    """
    setup = image.at(0x1F1, 1)[0] or 4
    (version,) = struct.unpack("<H", image.at(0x206, 2))
    if version < 0x208:
        raise NotFound(Reason.UNSUPPORTED, f"{image.label} is older than any kernel with BTF")
    offset, size = struct.unpack("<II", image.at(0x248, 8))
    packed = image.part((setup + 1) * 512 + offset, size)
    # arch/x86/boot/compressed/mkpiggy.c: the last four bytes, of every kind of compression.
    return packed, struct.unpack("<I", packed.at(size - 4, 4))[0]


def _is_flat(kernel: FileSlice) -> bool:
    """Whether it is the image of a kernel for arm64 or riscv (their Documentation, "boot-image-header")."""
    return kernel.up_to(0x38, 4) in (b"ARM\x64", b"RSC\x05")


def _without_btf(kernel: FileSlice) -> NotFound:
    return NotFound(
        Reason.INCOMPLETE,
        f"{kernel.label} has no BTF: it was built without CONFIG_DEBUG_INFO_BTF, or stripped",
    )
