"""Small hosts for the tests of the sources: trees, modules and a loader, all made up below a directory."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from kheadersd.errors import ModuleFailed
from kheadersd.host.host import Host
from kheadersd.release import Release
from tests.support.archives import kheaders_files, make_kheaders

if TYPE_CHECKING:
    from pathlib import Path

RELEASE = Release("6.1.0-9-test")
OTHER = Release("5.10.0-1-test")


def ignore(stage: str, fraction: float) -> None:
    """A report that is dropped."""


class LinkedHost(Host):
    """A host whose /sys may be made of links to this machine's, which has files that no image can have."""

    def inside(self, path: Path) -> Path:
        return path


def make_host(root: Path) -> Host:
    """A host that runs `RELEASE` and has an empty directory for its modules."""
    osrelease = root / "proc/sys/kernel/osrelease"
    osrelease.parent.mkdir(parents=True)
    osrelease.write_text(f"{RELEASE}\n")
    boot_id = root / "proc/sys/kernel/random/boot_id"
    boot_id.parent.mkdir()
    boot_id.write_text("11111111-2222-3333-4444-555555555555\n")
    (root / "lib/modules" / RELEASE).mkdir(parents=True)
    (root / "sys/kernel").mkdir(parents=True)
    (root / "sys/module").mkdir()
    return Host(root)


def put_tree(directory: Path, release: str = RELEASE, parts: str = "both") -> Path:
    """A usable tree, or its "source" or "build" part alone."""
    for name, content in kheaders_files(release).items():
        generated = "/generated/" in name
        if parts == "both" or (parts == "build") == generated:
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_bytes(content)
    return directory


def show_in_sysfs(host: Host, archive: bytes, *, builtin: bool = False) -> None:
    """What the kernel does when kheaders is loaded."""
    host.path("sys/kernel/kheaders.tar.xz").write_bytes(archive)
    if not builtin:
        host.path("sys/module/kheaders").mkdir(exist_ok=True)


def hide_from_sysfs(host: Host) -> None:
    """What the kernel does when kheaders is unloaded."""
    host.path("sys/kernel/kheaders.tar.xz").unlink(missing_ok=True)
    if host.path("sys/module/kheaders").is_dir():
        host.path("sys/module/kheaders").rmdir()


class Loader:
    """A `kheadersd.host.kernel_module.Loader` that moves files instead of modules.

    Attributes:
        calls: what was asked of it, in order.
        fails_to_unload: whether the kernel refuses that.
        is_owned: as of any loader.
        left_by_predecessor: what `restore_ownership` finds.
    """

    def __init__(self, host: Host, archive: bytes) -> None:
        self.calls: list[str] = []
        self.fails_to_unload = False
        self.is_owned = False
        self.left_by_predecessor = False
        self._host = host
        self._archive = archive

    async def load(self) -> None:
        self.calls.append("load")
        if not self._host.path("sys/module/kheaders").exists():
            show_in_sysfs(self._host, self._archive)
            self.is_owned = True

    async def unload(self) -> None:
        self.calls.append("unload")
        if self.fails_to_unload:
            raise ModuleFailed("kheaders could not be unloaded: it is stuck")
        hide_from_sysfs(self._host)
        self.is_owned = False

    async def restore_ownership(self) -> None:
        self.is_owned = self.left_by_predecessor


def make_module(
    archive: bytes,
    vermagic: str = f"{RELEASE} SMP mod_unload",
    *,
    bits: int = 64,
    order: str = "<",
    content_type: int = 1,
    symbols: tuple[str, ...] = ("kernel_headers_data", "kernel_headers_data_end"),
    end_at: int | None = None,
) -> bytes:
    """An ELF file with just what matters of kheaders.ko.

    Args:
        order: the byte order as in `struct`.
        content_type: of the section with the archive; 1 is PROGBITS, 8 NOBITS.
        symbols: the names at the beginning and the end of the archive; none to have no symbol table.
        end_at: where the second symbol is, if not at the end of the archive.
    """
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
    values = [0, len(archive) if end_at is None else end_at]
    table = _symbol(0, 0, 0, bits, order)
    at = 1
    for name, value in zip(symbols, values, strict=False):
        table += _symbol(at, 2, value, bits, order)
        at += len(name) + 1
    names = b"\0.modinfo\0.rodata\0.symtab\0.strtab\0.shstrtab\0"
    modinfo = f"license=GPL v2\0vermagic={vermagic}\0".encode()
    entry = 24 if bits == 64 else 16
    sections = [
        (b"", 0, b"", 0, 0),
        (b".modinfo", 1, modinfo, 0, 0),
        (b".rodata", content_type, archive, 0, 0),
    ]
    if symbols:
        sections += [(b".symtab", 2, table, 4, entry), (b".strtab", 3, strings, 0, 0)]
    sections.append((b".shstrtab", 3, names, 0, 0))
    return _elf(sections, names, bits, order)


def _symbol(name: int, section: int, value: int, bits: int, order: str) -> bytes:
    if bits == 64:
        return struct.pack(order + "IBBHQQ", name, 0x10, 0, section, value, 0)
    return struct.pack(order + "IIIBBH", name, value, 0, 0x10, 0, section)


def _elf(sections: list[tuple[bytes, int, bytes, int, int]], names: bytes, bits: int, order: str) -> bytes:
    word = "Q" if bits == 64 else "I"
    header_size, section_size = (64, 64) if bits == 64 else (52, 40)
    body = b""
    headers = b""
    for name, kind, content, link, entry in sections:
        offset = header_size + len(body)
        body += content
        where = names.index(b"\0" + name + b"\0") + 1 if name else 0
        headers += struct.pack(
            f"{order}II{word}{word}{word}{word}II{word}{word}",
            *(where, kind, 0, 0, offset if kind else 0, len(content), link, 0, 1, entry),
        )
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    header = ident + struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        *(1, 62, 1, 0, 0, header_size + len(body), 0, header_size, 0, 0),
        *(section_size, len(sections), len(sections) - 1),
    )
    return header + body + headers


def install(host: Host, release: str, content: bytes = b"module") -> Path:
    """As a package manager does it, with what depmod writes at the end."""
    directory = host.path("lib/modules", release)
    module = directory / "kernel/kernel/kheaders.ko"
    module.parent.mkdir(parents=True, exist_ok=True)
    new = module.with_name("kheaders.ko.dpkg-new")
    new.write_bytes(content)
    new.rename(module)
    (directory / "modules.dep").write_text("kernel/kernel/kheaders.ko:\n")
    return module


def put_kernel(host: Host, release: str, content: str = "") -> Path:
    archive = make_kheaders(release, {"include/linux/more.h": content.encode()})
    return install(host, release, make_module(archive, f"{release} SMP mod_unload"))
