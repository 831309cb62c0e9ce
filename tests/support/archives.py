"""Small archives made up for the tests, in the layout of the kernel's own.

They are written by the standard library's `tarfile`: an implementation that is not the one under test.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from typing import TYPE_CHECKING

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REGULAR = tarfile.REGTYPE
HARD_LINK = tarfile.LNKTYPE
SYMLINK = tarfile.SYMTYPE
CHARACTER_DEVICE = tarfile.CHRTYPE
BLOCK_DEVICE = tarfile.BLKTYPE
DIRECTORY = tarfile.DIRTYPE
FIFO = tarfile.FIFOTYPE


def kheaders_files(release: str) -> dict[str, bytes]:
    """The fewest files that make a usable tree for ``release``."""
    return {
        "include/linux/kconfig.h": b"#ifndef __LINUX_KCONFIG_H\n#define __LINUX_KCONFIG_H\n#endif\n",
        "include/linux/types.h": b"#ifndef _LINUX_TYPES_H\n#define _LINUX_TYPES_H\n#endif\n",
        "include/generated/autoconf.h": b"#define CONFIG_X86 1\n#define CONFIG_64BIT 1\n",
        "include/generated/utsrelease.h": f'#define UTS_RELEASE "{release}"\n'.encode(),
        "arch/x86/include/asm/ptrace.h": b"#ifndef _ASM_X86_PTRACE_H\n#define _ASM_X86_PTRACE_H\n#endif\n",
        "arch/x86/include/generated/uapi/asm/types.h": b"#include <asm-generic/types.h>\n",
    }


def member(
    name: str, data: bytes = b"", kind: bytes = REGULAR, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    """One member for `make_tar`; ``target`` is what a link points at."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    info.mode = 0o755 if kind == DIRECTORY else 0o644
    info.size = len(data)
    return info, data


def make_tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive of exactly these members, in this order; nothing is checked."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def tree_tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """A tar archive of a tree as the kernel's gen_kheaders.sh makes it: "./" in front, directories first."""
    links = links or {}
    directories = {"."}
    for name in (*files, *links):
        parts = name.split("/")[:-1]
        directories.update("/".join([".", *parts[: depth + 1]]) for depth in range(len(parts)))
    return make_tar(
        *(member(name, kind=DIRECTORY) for name in sorted(directories)),
        *(member("./" + name, data) for name, data in files.items()),
        *(member("./" + name, kind=SYMLINK, target=target) for name, target in links.items()),
    )


def make_kheaders(
    release: str, files: Mapping[str, bytes] | None = None, links: Mapping[str, str] | None = None
) -> bytes:
    """A usable kheaders.tar.xz for ``release``.

    Args:
        release: goes into utsrelease.h.
        files: further files by name, or other content for those that are always there.
        links: symlinks, name to target.
    """
    return lzma.compress(tree_tar(kheaders_files(release) | dict(files or {}), links), preset=1)


def compress(data: bytes, kind: str) -> bytes:
    """``data`` as "xz", "gzip", "zstd" or "none"."""
    if kind == "xz":
        return lzma.compress(data, preset=1)
    if kind == "gzip":
        return gzip.compress(data)
    if kind == "zstd":
        return zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return data


WRAPPINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    # kmod's own reader takes small dictionaries and checks only.
    ".xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32, preset=1),
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
