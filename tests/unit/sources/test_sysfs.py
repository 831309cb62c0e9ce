"""The archive in /sys/kernel, which others may take away at any moment."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import struct
from pathlib import Path

import pytest

from kheadersd.errors import Corrupt
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import KernelModule
from kheadersd.sources.kernel_archive import MAX_ARCHIVE
from kheadersd.sources.source import NotFound, Reason
from kheadersd.sources.sysfs import SysfsSource, read_whole
from kheadersd.system.file_identity import stored_identity_at
from tests.support.archives import make_kheaders
from tests.support.hosts import (
    OTHER,
    RELEASE,
    LinkedHost,
    Loader,
    hide_from_sysfs,
    ignore,
    make_host,
    show_in_sysfs,
)

ARCHIVE = make_kheaders(RELEASE)
# A real file of sysfs that says 4096 bytes and has a few: every read of it ends early.
SHORT = Path("/sys/devices/system/cpu/online")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    make_host(tmp_path)
    return LinkedHost(tmp_path)


@pytest.fixture
def source(host: Host) -> SysfsSource:
    return SysfsSource(host, KernelModule(host, Loader(host, ARCHIVE)))


async def test_the_whole_archive(host: Host, source: SysfsSource) -> None:
    show_in_sysfs(host, ARCHIVE)
    archive = await source.find(RELEASE, ignore)
    assert archive.digest == hashlib.sha256(ARCHIVE).hexdigest()
    (layer,) = archive.layers
    tar = b"".join(layer.chunks())
    assert len(tar) == layer.tar_bytes
    assert b"include/linux/kconfig.h" in tar
    assert b"".join(layer.chunks()) == tar  # it can be started anew
    assert stored_identity_at(archive.origin) == archive.origin_stamp != ""


async def test_another_kernel(host: Host, source: SysfsSource) -> None:
    show_in_sysfs(host, ARCHIVE)
    with pytest.raises(NotFound, match=RELEASE) as caught:
        await source.find(OTHER, ignore)
    assert caught.value.reason is Reason.NOT_RUNNING


async def test_not_loaded(source: SysfsSource) -> None:
    with pytest.raises(NotFound, match="not loaded") as caught:
        await source.find(RELEASE, ignore)
    assert caught.value.reason is Reason.MISSING


@pytest.mark.parametrize(
    "content", [b"", b"not xz", ARCHIVE[:-1], ARCHIVE[:100], ARCHIVE + b"\n", b"\0" + ARCHIVE]
)
async def test_what_is_not_one_xz_file(host: Host, source: SysfsSource, content: bytes) -> None:
    show_in_sysfs(host, content)
    with pytest.raises(Corrupt, match=r"kheaders\.tar\.xz"):
        await source.find(RELEASE, ignore)


async def test_too_large(host: Host, source: SysfsSource) -> None:
    show_in_sysfs(host, b"")
    os.truncate(host.path("sys/kernel/kheaders.tar.xz"), MAX_ARCHIVE + 1)
    with pytest.raises(Corrupt, match=str(MAX_ARCHIVE)):
        await source.find(RELEASE, ignore)


async def test_no_file(host: Host, source: SysfsSource) -> None:
    host.path("sys/kernel/kheaders.tar.xz").mkdir()
    with pytest.raises(NotFound, match="a directory and not a regular file"):
        await source.find(RELEASE, ignore)


def test_a_short_read() -> None:
    with pytest.raises(OSError, match="ends before its size"):
        read_whole(SHORT)


@pytest.mark.parametrize("parts", ["kernel/kheaders.tar.xz", "kernel", ""])
async def test_no_link_leads_out_of_an_image(tmp_path: Path, parts: str) -> None:
    """What an image links to is read by no caller, and no message quotes it."""
    outside = tmp_path / "outside"
    show_in_sysfs(make_host(outside), b"root:*:secret")
    image = tmp_path / "image"
    host = make_host(image)
    link = image / "sys" / parts
    shutil.rmtree(image / "sys") if parts == "" else shutil.rmtree(image / "sys/kernel")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside / "sys" / parts)
    module = KernelModule(host, Loader(host, ARCHIVE))
    assert module.state() == "absent"
    with pytest.raises(NotFound) as caught:
        await SysfsSource(host, module).find(RELEASE, ignore)
    assert caught.value.reason is Reason.MISSING
    assert "root" not in caught.value.message.replace(str(tmp_path), "")


async def test_a_link_inside_of_an_image(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    (tmp_path / "kept").write_bytes(ARCHIVE)
    host.path("sys/kernel/kheaders.tar.xz").symlink_to("/kept")
    source = SysfsSource(host, KernelModule(host, Loader(host, ARCHIVE)))
    archive = await source.find(RELEASE, ignore)
    assert archive.digest == hashlib.sha256(ARCHIVE).hexdigest()
    assert stored_identity_at(archive.origin) == archive.origin_stamp


async def test_no_content_in_messages(host: Host, source: SysfsSource) -> None:
    for content in (b"secret", b"\xfd7zXZ\0secret"):
        show_in_sysfs(host, content)
        with pytest.raises(Corrupt) as caught:
            await source.find(RELEASE, ignore)
        assert "ecre" not in caught.value.message
        assert "et" not in caught.value.message.rpartition("xz")[2]


async def test_an_image_s_release_and_notes_are_its_own(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    make_host(outside)
    (outside / "notes").write_bytes(struct.pack("=III4s4s", 4, 4, 3, b"GNU\0", b"abcd"))
    image = tmp_path / "image"
    (image / "proc/sys/kernel").mkdir(parents=True)
    (image / "proc/sys/kernel/osrelease").symlink_to(outside / "proc/sys/kernel/osrelease")
    (image / "sys/kernel").mkdir(parents=True)
    (image / "sys/kernel/notes").symlink_to(outside / "notes")
    host = Host(image)
    assert host.running is None
    assert host.build_id == ""
    (image / "sys/kernel/notes").unlink()
    (image / "sys/kernel/notes").write_bytes((outside / "notes").read_bytes())
    assert Host(image).build_id == b"abcd".hex()


async def test_what_always_ends_early_has_vanished(host: Host, source: SysfsSource) -> None:
    host.path("sys/kernel/kheaders.tar.xz").symlink_to(SHORT)
    with pytest.raises(NotFound, match="5 times") as caught:
        await source.find(RELEASE, ignore)
    assert caught.value.reason is Reason.VANISHED


async def test_lost_half_way_and_back_again(host: Host, source: SysfsSource) -> None:
    path = host.path("sys/kernel/kheaders.tar.xz")
    path.symlink_to(SHORT)
    finding = asyncio.create_task(source.find(RELEASE, ignore))
    await asyncio.sleep(0.03)
    path.unlink()  # unloaded
    await asyncio.sleep(0.05)
    show_in_sysfs(host, ARCHIVE)  # loaded again
    assert (await finding).digest == hashlib.sha256(ARCHIVE).hexdigest()


async def test_lost_half_way_for_good(host: Host, source: SysfsSource) -> None:
    path = host.path("sys/kernel/kheaders.tar.xz")
    path.symlink_to(SHORT)
    finding = asyncio.create_task(source.find(RELEASE, ignore))
    await asyncio.sleep(0.03)
    hide_from_sysfs(host)
    with pytest.raises(NotFound) as caught:
        await finding
    assert caught.value.reason is Reason.VANISHED


async def test_cancelled(host: Host, source: SysfsSource) -> None:
    host.path("sys/kernel/kheaders.tar.xz").symlink_to(SHORT)
    descriptors = len(os.listdir("/proc/self/fd"))
    finding = asyncio.create_task(source.find(RELEASE, ignore))
    await asyncio.sleep(0.03)
    finding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await finding
    assert len(os.listdir("/proc/self/fd")) == descriptors
