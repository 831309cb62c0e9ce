"""The package source on a real pacman, and small repositories that are signed as real ones are."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from kheadersd.errors import Corrupt, KheadersError, LimitsExceeded
from kheadersd.release import Release
from kheadersd.sources import package_work
from kheadersd.sources.package import PackageSource
from kheadersd.sources.source import Archive, NotFound, Reason
from tests.real.pacman.conftest import RELEASE, VERSION
from tests.support.needs import needs_root
from tests.support.other_user import UNPRIVILEGED, as_nobody
from tests.support.packages import (
    WHOLE,
    check_cancelling,
    files_of,
    left_in,
    put_before,
    refusal,
    silent,
    state_of,
    wait_for,
)
from tests.support.pacman_repository import (
    PacmanHost,
    PacmanKey,
    PacmanRepository,
    headers_of,
    pacman_served,
)

pytestmark = pytest.mark.slow


async def find(
    pacman_host: PacmanHost, work: Path, release: Release = RELEASE, extra: tuple[str, ...] = ()
) -> Archive:
    return await PackageSource(pacman_host.host, work, extra).find(release, silent)


async def test_linux_headers(published: PacmanRepository, pacman_host: PacmanHost, work: Path) -> None:
    before = state_of(pacman_host.root)
    source = PackageSource(pacman_host.host, work)
    assert await source.offered(RELEASE) is None
    assert published.server.requests == []
    archive = await source.find(RELEASE, silent)
    assert archive.origin == f"linux-headers {VERSION}"
    assert files_of(archive, RELEASE) == WHOLE
    assert files_of(archive, RELEASE) == WHOLE
    assert left_in(work) == []
    asked = len(published.server.requests)
    assert await source.offered(RELEASE) == f"linux-headers {VERSION}"
    assert len(published.server.requests) == asked
    assert state_of(pacman_host.root) == before


async def test_two_kernels_at_once(repository: PacmanRepository, pacman_host: PacmanHost, work: Path) -> None:
    lts = Release("6.6.32-1-lts")
    repository.add("linux-headers", VERSION, headers_of(RELEASE))
    repository.add("linux-lts-headers", "6.6.32-1", headers_of(lts))
    repository.publish()
    source = PackageSource(pacman_host.host, work)
    one, other = await asyncio.gather(source.find(RELEASE, silent), source.find(lts, silent))
    assert files_of(one, RELEASE) == WHOLE
    assert files_of(other, lts) == WHOLE
    assert left_in(work) == []


async def test_the_file_with_the_name_of_the_package(
    repository: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    release = Release("6.9.1-2-cachyos-bore")
    modules = pacman_host.root / "usr/lib/modules" / release
    modules.mkdir(parents=True)
    (modules / "pkgbase").write_text("linux-cachyos-bore\n")
    repository.add("linux-cachyos-bore-headers", "6.9.1-2", headers_of(release))
    repository.publish()
    assert files_of(await find(pacman_host, work, release), release) == WHOLE
    (modules / "pkgbase").write_text("--config=/x\n")
    with pytest.raises(NotFound, match="does not have the name of a package"):
        await find(pacman_host, work, release)


@pytest.mark.parametrize("release", ["6.9.2-arch1-1", "6.9.1-arch1-2", "6.9.1-arch1-1-lts", "-y", "6 9"])
async def test_another_release(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path, release: str
) -> None:
    with pytest.raises(NotFound, match="pacman's repositories have") as caught:
        await find(pacman_host, work, Release(release))
    assert caught.value.reason is Reason.MISSING
    assert not [path for path in published.server.requests if "pkg.tar" in path]


async def test_a_lock_of_a_pacman_that_was_killed(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    assert published.server.address
    lock = work / "pacman/db.lck"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert files_of(await find(pacman_host, work), RELEASE) == WHOLE
    assert not lock.exists()


async def test_a_package_for_a_level_of_the_architecture(
    repository: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    """As CachyOS has them."""
    repository.add("linux-headers", VERSION, headers_of(RELEASE), architecture="x86_64_v3")
    repository.publish()
    pacman_host.configure(options="Architecture = x86_64_v3\n")
    assert files_of(await find(pacman_host, work), RELEASE) == WHOLE


async def refused(pacman_host: PacmanHost, work: Path, extra: tuple[str, ...] = ()) -> str:
    """The message of a package that is not taken, of which nothing is left."""
    with pytest.raises(Corrupt) as caught:
        await find(pacman_host, work, extra=extra)
    assert left_in(work) == []
    return caught.value.message


LAX = [
    ("", ""),
    ("SigLevel = Never\n", ""),
    ("", "SigLevel = Optional TrustAll\n"),
    ("LocalFileSigLevel = Never\n", "SigLevel = PackageNever\n"),
]


@pytest.mark.parametrize(("options", "core"), LAX)
async def test_an_unsigned_package(
    repository: PacmanRepository, pacman_host: PacmanHost, work: Path, options: str, core: str
) -> None:
    repository.add("linux-headers", VERSION, headers_of(RELEASE), signed=False)
    repository.publish()
    pacman_host.configure(options=options, core=core)
    assert "pacman refused linux-headers" in await refused(pacman_host, work)


async def test_a_package_that_is_signed_by_another(
    repository: PacmanRepository,
    pacman_host: PacmanHost,
    work: Path,
    pacman_keys: tuple[PacmanKey, PacmanKey],
) -> None:
    repository.add("linux-headers", VERSION, headers_of(RELEASE), key=pacman_keys[1])
    repository.publish()
    assert "pacman refused linux-headers" in await refused(pacman_host, work)


async def test_a_host_without_a_keyring(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    for path in (pacman_host.root / "etc/pacman.d/gnupg").glob("pubring*"):
        path.unlink()
    with pytest.raises(NotFound, match="has no public keys"):
        await find(pacman_host, work)
    assert published.server.requests == []


@pytest.mark.parametrize("database", ["old", "new"])
async def test_a_package_that_was_changed(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path, database: str
) -> None:
    (package,) = published.directory.glob("*.pkg.tar.zst")
    content = bytearray(package.read_bytes())
    content[-5] ^= 1
    package.write_bytes(content)
    if database == "new":
        # repo-add would not read it: as one that takes the signature as it comes.
        changed = {**headers_of(RELEASE), f"usr/lib/modules/{RELEASE}/build/include/linux/added.h": ""}
        other = published.add("linux-headers", VERSION, changed, signed=False)
        assert other == package
        published.publish()
    assert "pacman refused linux-headers" in await refused(pacman_host, work)


async def test_the_headers_of_another_kernel(
    repository: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    repository.add("linux-headers", VERSION, headers_of(RELEASE, of="6.9.0-arch1-1"))
    repository.publish()
    assert "is of kernel 6.9.0-arch1-1" in refusal(await find(pacman_host, work), RELEASE)


async def test_the_network_is_down(published: PacmanRepository, pacman_host: PacmanHost, work: Path) -> None:
    pacman_host.configure(address="http://127.0.0.1:1")
    with pytest.raises(NotFound, match="could not fetch all lists") as caught:
        await find(pacman_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert left_in(work) == []


async def test_the_network_ends_in_the_middle(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    published.server.breaks = True
    with pytest.raises(NotFound, match="cannot be downloaded by pacman"):
        await find(pacman_host, work)
    assert left_in(work) == []


async def test_cancelling_a_download(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path
) -> None:
    published.server.stalls = True
    task = asyncio.create_task(find(pacman_host, work))
    assert await asyncio.to_thread(published.server.stalled.wait, 30)
    await check_cancelling(task, work)


async def test_an_archive_of_old_packages(
    published: PacmanRepository,
    pacman_host: PacmanHost,
    work: Path,
    directory: Path,
    pacman_keys: tuple[PacmanKey, PacmanKey],
) -> None:
    old = Release("6.8.0-arch1-1")
    with pacman_served(directory / "archive", pacman_keys[0]) as archive:
        archive.add("linux-headers", "6.8.arch1-1", headers_of(old))
        archive.add("linux-lts-headers", "6.6.1-1", headers_of("6.6.1-1-lts"), key=pacman_keys[1])
        archive.add("linux-zen-headers", "6.6.1.zen1-1", headers_of("6.6.1-zen1-1-zen"), signed=False)
        extra = (f"{published.server.address}/no/", f"{archive.server.address}/")
        assert files_of(await find(pacman_host, work, old, extra), old) == WHOLE
        for release in ("6.6.1-1-lts", "6.6.1-zen1-1-zen"):
            with pytest.raises((Corrupt, NotFound), match=r"-headers 6\.6\.1"):
                await find(pacman_host, work, Release(release), extra)
        with pytest.raises(NotFound, match="404"):
            await find(pacman_host, work, Release("6.6.2-1-lts"), extra)
    assert left_in(work) == []


@pytest.mark.parametrize("address", ["file:///srv", "ftp://127.0.0.1/"])
async def test_an_image_reads_no_file_of_this_machine(
    pacman_host: PacmanHost, work: Path, address: str
) -> None:
    pacman_host.configure(address=address, options="XferCommand = /usr/bin/touch /tmp/kh-ran\n")
    with pytest.raises(NotFound, match="only http and https") as caught:
        await find(pacman_host, work)
    assert caught.value.reason is Reason.UNSUPPORTED


async def test_too_large(
    published: PacmanRepository, pacman_host: PacmanHost, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_work, "MAX_DOWNLOAD", 100)
    with pytest.raises(LimitsExceeded, match="and 100 are accepted"):
        await find(pacman_host, work)
    assert left_in(work) == []


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("printf 'Proceed? [Y/n] '; read a || { echo 'error: no answer' >&2; exit 1; }", "no answer"),
        ("head -c 30000000 /dev/zero | tr '\\0' x >&2; exit 1", "x{100}"),
        (
            r"printf 'Repository : core\nName : linux-headers\nVersion : -x\n'",
            "no package",
        ),
        ("exit 3", "status 3"),
    ],
)
async def test_a_manager_that_misbehaves(
    published: PacmanRepository,
    pacman_host: PacmanHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    told: str,
) -> None:
    put_before(monkeypatch, directory, "pacman", script)
    with pytest.raises((NotFound, KheadersError), match=told):
        await find(pacman_host, work)
    assert left_in(work) == []


async def test_a_manager_that_hangs(
    published: PacmanRepository,
    pacman_host: PacmanHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = f"trap '' TERM; touch {directory}/started; sleep 1000 & sleep 1000"
    put_before(monkeypatch, directory, "pacman", script)
    task = asyncio.create_task(find(pacman_host, work))
    await wait_for(directory / "started")
    await check_cancelling(task, work)


@needs_root("all tests run unprivileged already")
def test_an_unprivileged_daemon(published: PacmanRepository, pacman_host: PacmanHost, work: Path) -> None:
    before = state_of(pacman_host.root)
    work.parent.mkdir()
    os.chown(work.parent, UNPRIVILEGED, UNPRIVILEGED)

    async def job() -> None:
        assert (await find(pacman_host, work)).layers

    assert as_nobody(job()) == 0
    assert {path.stat().st_uid for path in work.rglob("*")} == {UNPRIVILEGED}
    assert left_in(work) == []
    assert state_of(pacman_host.root) == before
