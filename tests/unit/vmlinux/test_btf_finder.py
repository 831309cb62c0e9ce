"""Where BTF is looked for, and what is said when there is none."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from pathlib import Path

import pytest

from kheadersd.errors import Corrupt, ReleaseMismatch
from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sources.source import NotFound, Reason
from kheadersd.vmlinux import btf_finder as btf
from kheadersd.vmlinux.kernel_image import MAX_KERNEL
from tests.support.made_up_btf import BUILD_ID, RELEASE, make_btf, make_bzimage, make_host, make_kernel, put

WANTED = Release(RELEASE)
OTHER = Release("6.1.0-10-test")
SHOWN = make_btf()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "host").mkdir()
    return tmp_path / "host"


async def find(host: Host, release: Release = WANTED) -> btf.Btf:
    return await btf.find(host, release, host.root)


async def test_what_the_running_kernel_shows(root: Path) -> None:
    host = make_host(root)
    path = put(root, btf.RUNNING_BTF, SHOWN)
    found = await find(host)
    assert found == btf.Btf(
        SHOWN, hashlib.sha256(SHOWN).hexdigest(), str(path), f"running:{RELEASE}:{BUILD_ID}", BUILD_ID
    )
    assert btf.stamp(host, found.origin) == found.origin_stamp
    path.unlink()
    assert btf.stamp(host, found.origin) == ""


@pytest.mark.parametrize("place", btf.IMAGES)
async def test_every_place(root: Path, place: str) -> None:
    host = make_host(root, running=OTHER)
    put(root, btf.RUNNING_BTF, make_btf("another"))
    content = make_bzimage(make_kernel(), gzip.compress) if "vmlinuz" in place else make_kernel()
    path = put(root, place, content)
    found = await find(host)
    assert (found.data, found.origin, found.build_id) == (SHOWN, str(path), BUILD_ID)
    assert btf.stamp(host, found.origin) == found.origin_stamp != ""
    path.write_bytes(content + b"x")
    assert btf.stamp(host, found.origin) != found.origin_stamp


async def test_from_the_image_as_from_the_running_kernel(root: Path) -> None:
    host = make_host(root)
    put(root, "boot/vmlinuz-{}", make_bzimage(make_kernel(), gzip.compress))
    from_image = await find(host)
    put(root, btf.RUNNING_BTF, SHOWN)
    assert (await find(host)).digest == from_image.digest


async def test_nothing_anywhere(root: Path) -> None:
    with pytest.raises(NotFound, match=r"sys/kernel/btf/vmlinux, .*boot/vmlinuz-6.1.0-9-test$") as caught:
        await find(make_host(root))
    assert caught.value.reason == Reason.MISSING
    with pytest.raises(NotFound, match=r"btf/vmlinux is of kernel 6.1.0-9-test, which runs; .*") as caught:
        await find(make_host(root), OTHER)
    assert caught.value.reason == Reason.MISSING


async def test_an_image_without_btf(root: Path) -> None:
    put(root, "boot/vmlinuz-{}", make_kernel(b""))
    with pytest.raises(NotFound, match=r"no BTF: it was built without .*; there is none of ") as caught:
        await find(make_host(root))
    assert caught.value.reason == Reason.INCOMPLETE


async def test_a_damaged_image_is_passed_over_if_there_is_another(root: Path) -> None:
    host = make_host(root)
    put(root, "boot/vmlinux-{}", make_kernel()[:1000])
    with pytest.raises(Corrupt, match=r"boot/vmlinux-6.1.0-9-test is damaged"):
        await find(host)
    path = put(root, "boot/vmlinuz-{}", make_bzimage(make_kernel(), gzip.compress))
    assert (await find(host)).origin == str(path)


async def test_what_the_kernel_shows_is_checked_too(root: Path) -> None:
    host = make_host(root)
    put(root, btf.RUNNING_BTF, SHOWN[:-1])
    with pytest.raises(Corrupt, match="btf/vmlinux is damaged"):
        await find(host)


async def test_an_image_of_another_kernel(root: Path) -> None:
    put(root, "boot/vmlinuz-{}", make_kernel(release=OTHER))
    with pytest.raises(ReleaseMismatch, match=f"is kernel {OTHER}, not {RELEASE}"):
        await find(make_host(root))


async def test_an_image_of_another_build_than_the_one_that_runs(root: Path) -> None:
    put(root, "boot/vmlinuz-{}", make_kernel(build_id="ff" * 20))
    with pytest.raises(NotFound, match=r"another build of 6.1.0-9-test than the one that runs") as caught:
        await find(make_host(root))
    assert caught.value.reason == Reason.OTHER_RELEASE
    assert (await find(make_host(root, running=OTHER))).build_id == "ff" * 20


async def test_a_link_of_an_image_does_not_lead_out_of_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(make_kernel())
    (root / "boot").mkdir()
    link = root / "boot" / f"vmlinuz-{RELEASE}"
    link.symlink_to(tmp_path / "vmlinux")
    host = make_host(root)
    with pytest.raises(NotFound):
        await find(host)
    link.unlink()
    link.symlink_to("/vmlinux")
    path = put(root, "vmlinux", make_kernel())
    assert (await find(host)).origin == str(path)


async def test_our_own_automount_is_not_touched(root: Path) -> None:
    host = make_host(root)
    put(root, "run/kheaders/build/vmlinux", make_kernel())
    (root / "lib/modules" / RELEASE).mkdir(parents=True)
    (root / "lib/modules" / RELEASE / "build").symlink_to("/run/kheaders/build")
    with pytest.raises(NotFound) as caught:
        await find(host)
    assert caught.value.reason == Reason.MISSING


async def test_cancelled_while_it_decompresses(root: Path) -> None:
    host = make_host(root)
    # Sparse where it matters: 600 MB that compress to next to nothing.
    put(root, "boot/vmlinuz-{}", make_bzimage(bytes(600 << 20), lambda data: gzip.compress(data, 1)))
    assert MAX_KERNEL > 600 << 20
    work = asyncio.create_task(find(host))
    await asyncio.sleep(0.2)
    assert work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
