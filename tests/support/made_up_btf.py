"""Small kernels of which everything is known, in every kind of image."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from kheadersd.host.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

RELEASE = "6.1.0-9-test"
SIGNATURE = b"the signature" * 100
BUILD_ID = "00112233445566778899aabbccddeeff00112233"


def make_btf(name: str = "task_struct", order: str = "<") -> bytes:
    """BTF of ``struct <name> { int pid; };`` (Documentation/bpf/btf.rst)."""
    strings = b"\0int\0" + name.encode() + b"\0pid\0"
    pid = strings.index(b"pid")
    types = struct.pack(f"{order}IIII", 1, 1 << 24, 4, 1 << 24 | 32)
    types += struct.pack(f"{order}III", 5, 4 << 24 | 1, 4) + struct.pack(f"{order}III", pid, 1, 0)
    return make_btf_of(types, strings, order)


def make_btf_of(types: bytes, strings: bytes, order: str = "<") -> bytes:
    sizes = (24, 0, len(types), len(types), len(strings))
    return struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, *sizes) + types + strings


def make_banner(release: str = RELEASE) -> bytes:
    """As a kernel has it, with its model, which is no banner itself."""
    return f"%s version %s (x)\0Linux version {release} (somebody@somewhere) (gcc) #1 SMP\n\0".encode()


def make_kernel(
    btf: bytes | None = None,
    release: str = RELEASE,
    *,
    bits: int = 64,
    order: str = "<",
    build_id: str = BUILD_ID,
    filling: int = 3_000_000,
) -> bytes:
    """vmlinux with the sections that matter; without BTF if that is empty.

    Args:
        filling: bytes of other content, such that it is not decompressed in one piece.
    """
    # The identifier is in the byte order of this machine, in which the kernel that runs is looked at.
    note = struct.pack("=III", 4, len(build_id) // 2, 3) + b"GNU\0" + bytes.fromhex(build_id)
    sections = [
        (".text", 1, bytes(range(256)) * (filling // 256)),
        (".rodata", 1, b"\x01" * 1000 + make_banner(release)),
        (".notes", 7, note),
        (".bss", 8, b""),
    ]
    btf = make_btf() if btf is None else btf
    if btf:
        sections.append((".BTF", 1, btf))
    return make_elf(sections, bits, order)


def make_elf(sections: list[tuple[str, int, bytes]], bits: int = 64, order: str = "<") -> bytes:
    """An ELF file of sections (name, type, content)."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _, _ in sections) + b".shstrtab\0"
    form, size = ("IIQQQQIIQQ", 64) if bits == 64 else ("IIIIIIIIII", 52)
    body, headers = b"", struct.pack(order + form, *[0] * 10)
    for name, kind, content in [*sections, (".shstrtab", 3, names)]:
        where = names.index(b"\0" + name.encode() + b"\0") + 1
        headers += struct.pack(order + form, where, kind, 0, 0, size + len(body), len(content), 0, 0, 1, 0)
        body += content
    word = "Q" if bits == 64 else "I"
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    counts = (size, 0, 0, struct.calcsize(order + form), len(sections) + 2, len(sections) + 1)
    header = struct.pack(f"{order}HHI{word}{word}{word}IHHHHHH", 2, 62, 1, 0, 0, size + len(body), 0, *counts)
    return ident + header + body + headers


def make_flat(btf: bytes, release: str = RELEASE) -> bytes:
    """As arm64's Image: no sections; before the BTF is what looks like it, and some of another program."""
    decoys = b"\x9f\xeb\x01\x00" + b"\xff" * 40 + make_btf("not_of_a_kernel") + b"\x9f\xeb\x01\x00"
    head = b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(4)
    return head + make_banner(release) + decoys + bytes(2_000_003) + btf + bytes(5000)


def make_bzimage(kernel: bytes, compress: Callable[[bytes], bytes], size: int | None = None) -> bytes:
    """As arch/x86/boot puts it together, signed; the size is that of the kernel if nothing else is said."""
    packed = compress(kernel)
    if not packed.startswith(b"\x1f\x8b"):  # gzip ends with the size by itself
        packed += struct.pack("<I", len(kernel) if size is None else size)
    return wrap(packed)


def wrap(
    packed: bytes, *, setup: int = 3, offset: int = 700, length: int | None = None, version: int = 0x20F
) -> bytes:
    """What boot loaders read of an x86 image, around the compressed kernel."""
    sector = bytearray(b"MZ" + bytes((setup + 1) * 512 - 2))
    sector[0x1F1] = setup
    sector[0x202:0x208] = b"HdrS" + struct.pack("<H", version)
    sector[0x248:0x250] = struct.pack("<II", offset, len(packed) if length is None else length)
    return bytes(sector) + b"\xcc" * 700 + packed + SIGNATURE


def make_zboot(kernel: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    packed = compress(kernel)
    head = b"MZ\0\0zimg" + struct.pack("<II", 512, len(packed)) + bytes(8) + b"gzip\0"
    return head.ljust(512, b"\0") + packed + SIGNATURE


def lz4_legacy(data: bytes) -> bytes:
    """As "lz4 -l" makes it, without compressing: every block is one run of literals."""
    made = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), 8 << 20):
        block = data[at : at + (8 << 20)]
        # A length of 15 and more goes on in bytes of 255 (lz4_Block_format.md).
        rest = len(block) - 15
        coded = bytes([0xF0]) + b"\xff" * (rest // 255) + bytes([rest % 255]) + block
        made += struct.pack("<I", len(coded)) + coded
    return made


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "xz": lambda data: lzma.compress(
        data,
        check=lzma.CHECK_CRC32,
        filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "dict_size": 128 << 20}],
    ),
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4_legacy,
}
"""Those of the kernel's that can be read; xz with the filter and the dictionary of the kernel's build."""


def make_host(root: Path, running: str = RELEASE, build_id: str = BUILD_ID) -> Host:
    osrelease = root / "proc/sys/kernel/osrelease"
    osrelease.parent.mkdir(parents=True, exist_ok=True)
    osrelease.write_text(running)
    (root / "sys/kernel/btf").mkdir(parents=True, exist_ok=True)
    note = struct.pack("=III", 4, len(build_id) // 2, 3) + b"GNU\0" + bytes.fromhex(build_id)
    (root / "sys/kernel/notes").write_bytes(note)
    return Host(root)


def put(root: Path, place: str, content: bytes) -> Path:
    path = root / place.format(RELEASE, RELEASE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


GUARD = b"#ifndef __VMLINUX_H__\n#define __VMLINUX_H__\n"


PUSH = b"#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)\n"


TASK = b"\nstruct task_struct {\n\tint pid;\n};\n"


END = b"\n#endif /* __VMLINUX_H__ */\n"
