"""The archive cut out of kheaders.ko."""

from __future__ import annotations

import contextlib
import lzma
import os
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from kheadersd.errors import Corrupt, ReleaseMismatch
from kheadersd.sources.kernel_archive import MAX_ARCHIVE
from kheadersd.sources.module_file import MAX_MODULE, ModuleFileSource, cut_out
from kheadersd.sources.source import NotFound, Reason
from kheadersd.system.file_identity import stored_identity, stored_identity_at
from tests.support.archives import WRAPPINGS, make_kheaders
from tests.support.hosts import OTHER, RELEASE, ignore, make_host, make_module

if TYPE_CHECKING:
    from kheadersd.host.host import Host

ARCHIVE = make_kheaders(RELEASE)
MODULE = make_module(ARCHIVE)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def install(host: Host, content: bytes, name: str = "kernel/kernel/kheaders.ko") -> Path:
    path = host.modules_directory(RELEASE) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", WRAPPINGS)
async def test_every_compression(host: Host, suffix: str) -> None:
    path = install(host, WRAPPINGS[suffix](MODULE), f"kernel/kernel/kheaders.ko{suffix}")
    source = ModuleFileSource(host)
    archive = await source.find(RELEASE, ignore)
    assert archive.origin == str(path)
    status = path.stat()
    expected = stored_identity(status)
    assert stored_identity_at(archive.origin) == archive.origin_stamp == expected
    assert b"kconfig.h" in b"".join(archive.layers[0].chunks())


async def test_the_stamp_tells_of_replacement_and_removal(host: Host) -> None:
    path = install(host, MODULE)
    source = ModuleFileSource(host)
    stamp = (await source.find(RELEASE, ignore)).origin_stamp
    path.unlink()
    assert stored_identity_at(str(path)) == ""
    install(host, MODULE)
    os.utime(path, ns=(1, 1))
    assert stored_identity_at(str(path)) not in ("", stamp)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_either_class_and_byte_order(bits: int, order: str) -> None:
    assert cut_out(make_module(ARCHIVE, bits=bits, order=order), "it", RELEASE) == ARCHIVE


def test_a_signature_behind_it() -> None:
    assert cut_out(MODULE + b"\x30\x82" * 200 + b"~Module signature appended~\n", "it", RELEASE) == ARCHIVE


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (b"", "not a kernel module"),
        (b"version https://git-lfs", "not a kernel module"),
        (b"\x7fELF", "damaged"),
        (MODULE[:40], "damaged"),
        (MODULE[:-30], "damaged"),
        (make_module(ARCHIVE, content_type=8), "not in the file"),
        (make_module(ARCHIVE, symbols=()), "no symbol table"),
        (make_module(ARCHIVE, symbols=("kernel_headers_data", "end")), "not the kheaders module"),
        (make_module(ARCHIVE, symbols=("a", "b")), "not the kheaders module"),
        (make_module(bytes(MAX_ARCHIVE + 1)), "more than 25165824"),
        (make_module(ARCHIVE).replace(b".modinfo", b".modinf_") + b"vermagic=", "no vermagic"),
        (make_module(ARCHIVE, end_at=0), "not inside its section"),
        (make_module(ARCHIVE, end_at=len(ARCHIVE) + 1), "not inside its section"),
        (MODULE.replace(b"vermagic=", b"vermajor="), "no vermagic"),
    ],
)
def test_what_is_no_whole_module(module: bytes, why: str) -> None:
    with pytest.raises(Corrupt, match=why) as caught:
        cut_out(module, "/lib/it.ko", RELEASE)
    assert "/lib/it.ko" in caught.value.message


def test_a_module_of_many_strings_takes_little_memory() -> None:
    module = make_module(ARCHIVE, "\0" * (30 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseMismatch):
            cut_out(module, "it", RELEASE)
        assert tracemalloc.get_traced_memory()[1] <= len(module)
    finally:
        tracemalloc.stop()


def test_another_kernels_module() -> None:
    for vermagic in (f"{OTHER} SMP", OTHER, f"{RELEASE}x SMP", "", "\xff\xfe"):
        with pytest.raises(ReleaseMismatch, match=RELEASE):
            cut_out(make_module(ARCHIVE, vermagic), "it", RELEASE)


def test_damage_anywhere_in_the_headers_is_a_typed_error() -> None:
    chance = random.Random(1)
    start = MODULE.index(ARCHIVE)
    outside = [*range(start), *range(start + len(ARCHIVE), len(MODULE))]
    for _ in range(1000):
        damaged = bytearray(MODULE)
        for _ in range(chance.choice((1, 1, 2, 5))):
            damaged[chance.choice(outside)] = chance.choice((0, 1, 0x7F, 0xFF, chance.randrange(256)))
        with contextlib.suppress(Corrupt, ReleaseMismatch):
            cut_out(bytes(damaged), "it", RELEASE)


async def test_an_archive_that_is_not_xz(host: Host) -> None:
    install(host, make_module(b"cpio archive"))
    with pytest.raises(Corrupt, match=r"the archive in .* is not an xz archive"):
        await ModuleFileSource(host).find(RELEASE, ignore)


async def test_not_installed(host: Host) -> None:
    for release in (RELEASE, OTHER):
        with pytest.raises(NotFound, match=release) as caught:
            await ModuleFileSource(host).find(release, ignore)
        assert caught.value.reason is Reason.MISSING


async def test_compressed_damage(host: Host) -> None:
    install(host, lzma.compress(MODULE)[:-20], "kernel/kernel/kheaders.ko.xz")
    with pytest.raises(Corrupt, match=r"kheaders\.ko\.xz"):
        await ModuleFileSource(host).find(RELEASE, ignore)


async def test_a_module_that_expands_without_end(host: Host) -> None:
    install(host, zstandard.ZstdCompressor().compress(bytes(MAX_MODULE + 1)), "updates/kheaders.ko.zst")
    with pytest.raises(Corrupt, match="more than"):
        await ModuleFileSource(host).find(RELEASE, ignore)


async def test_a_path_that_no_caller_could_be_told(host: Host) -> None:
    install(host, MODULE, os.fsdecode(b"updates/caf\xe9/kheaders.ko"))
    with pytest.raises(NotFound, match=r"updates/caf\\xe9/kheaders\.ko' is not used") as caught:
        await ModuleFileSource(host).find(RELEASE, ignore)
    assert caught.value.reason is Reason.UNREADABLE


async def test_the_modules_of_nixos(host: Host) -> None:
    store = host.path("nix/store/abc-linux/lib/modules", RELEASE, "kernel/kernel")
    store.mkdir(parents=True)
    (store / "kheaders.ko").write_bytes(MODULE)
    shutil.rmtree(host.path("lib"))
    host.path("run/booted-system").mkdir(parents=True)
    host.path("run/booted-system/kernel-modules").symlink_to("/nix/store/abc-linux")
    archive = await ModuleFileSource(host).find(RELEASE, ignore)
    assert archive.origin == str(store / "kheaders.ko")
    assert host.installed_releases() == {RELEASE}
