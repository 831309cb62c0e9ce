"""The package source on a real dnf and rpm, and small repositories that are signed as real ones are."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from kheadersd.errors import Corrupt, KheadersError, LimitsExceeded, Timeout
from kheadersd.release import Release
from kheadersd.sources import package_work
from kheadersd.sources.package import PackageSource
from kheadersd.sources.package_work import digest_of
from kheadersd.sources.source import Archive, NotFound, Reason
from tests.real.rpm.conftest import RELEASE
from tests.support.extracting import extract_archive
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
from tests.support.programs import run
from tests.support.rpm_repository import (
    RpmHost,
    RpmKey,
    RpmRepository,
    headers_of,
    large_keys,
    rename_in_rpm,
    rpm_served,
)

pytestmark = pytest.mark.slow

ORIGIN = f"kernel-devel {RELEASE}"


async def find(
    rpm_host: RpmHost, work: Path, release: Release = RELEASE, extra: tuple[str, ...] = ()
) -> Archive:
    return await PackageSource(rpm_host.host, work, extra).find(release, silent)


async def test_kernel_devel(published: RpmRepository, rpm_host: RpmHost, work: Path, kernel: Path) -> None:
    before = state_of(rpm_host.root)
    source = PackageSource(rpm_host.host, work)
    assert await source.offered(RELEASE) is None
    assert published.server.requests == []
    archive = await source.find(RELEASE, silent)
    assert archive.origin == ORIGIN
    assert archive.digest == digest_of([hashlib.sha256(kernel.read_bytes()).hexdigest()])  # noqa: ASYNC240
    assert files_of(archive, RELEASE) == WHOLE
    assert files_of(archive, RELEASE) == WHOLE
    assert left_in(work) == []
    asked = len(published.server.requests)
    assert await source.offered(RELEASE) == f"kernel-devel {RELEASE.removesuffix('.x86_64')}"
    assert len(published.server.requests) == asked
    assert state_of(rpm_host.root) == before


async def test_an_rpm2archive_without_options(
    published: RpmRepository, rpm_host: RpmHost, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before rpm 4.17 it takes the first argument for a package, whatever that is, and always compresses."""
    assert published.server.address
    there = shutil.which("rpm2archive")
    old = f'case $1 in --help) echo "Usage: rpm2archive file.rpm" ;; -) exec {there} - ;; *) exit 1 ;; esac'
    put_before(monkeypatch, tmp_path, "rpm2archive", old)
    assert files_of(await find(rpm_host, work), RELEASE) == WHOLE


async def test_two_kernels_at_once(repository: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    releases = [Release("6.1.99-200.fc37.x86_64"), Release("6.1.100-200.fc37.x86_64")]
    for release in releases:
        repository.add_kernel(release)
    repository.publish()
    source = PackageSource(rpm_host.host, work)
    archives = await asyncio.gather(*(source.find(release, silent) for release in releases))
    for archive, release in zip(archives, releases, strict=True):
        assert files_of(archive, release) == WHOLE
    assert left_in(work) == []


@pytest.mark.parametrize(
    "release", ["6.1.99", "6.1.98-200.fc37.x86_64", "6.*-200.fc37.x86_64", "-6-1", "6.1-2-amd64", "6.1 - 2"]
)
async def test_an_unknown_release(
    published: RpmRepository, rpm_host: RpmHost, work: Path, release: str
) -> None:
    with pytest.raises(NotFound, match="provide") as caught:
        await find(rpm_host, work, Release(release))
    assert caught.value.reason is Reason.MISSING
    with pytest.raises(NotFound):
        await PackageSource(rpm_host.host, work).offered(Release(release))
    assert not [path for path in published.server.requests if path.endswith(".rpm")]


async def refused(rpm_host: RpmHost, work: Path, extra: tuple[str, ...] = ()) -> str:
    """The message of a package that is not taken, of which nothing is left."""
    with pytest.raises(Corrupt) as caught:
        await find(rpm_host, work, extra=extra)
    assert left_in(work) == []
    return caught.value.message


async def test_an_unsigned_package(repository: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    repository.add_kernel(RELEASE, signed=False)
    repository.publish()
    rpm_host.configure(more="gpgcheck=0\n")
    assert "rpmkeys did not verify kernel-devel" in await refused(rpm_host, work)


async def test_a_package_that_is_signed_by_another(
    repository: RpmRepository, rpm_host: RpmHost, work: Path, rpm_keys: tuple[RpmKey, RpmKey]
) -> None:
    repository.add_kernel(RELEASE, key=rpm_keys[1])
    repository.publish()
    assert "NOKEY" in await refused(rpm_host, work)
    # As an administrator accepts it: "rpm --import".
    rpm_host.import_key(rpm_keys[1])
    assert files_of(await find(rpm_host, work), RELEASE) == WHOLE


async def test_a_host_with_many_keys(
    repository: RpmRepository, rpm_host: RpmHost, work: Path, rpm_keys: tuple[RpmKey, RpmKey]
) -> None:
    repository.add_kernel(RELEASE, key=rpm_keys[1])
    repository.publish()
    database = rpm_host.root / "var/lib/rpm"
    with tempfile.TemporaryDirectory(prefix="kh-key-") as name:
        run("rpmkeys", "--dbpath", str(database), "--import", *large_keys(Path(name), 40))
    rpm_host.import_key(rpm_keys[1])
    assert files_of(await find(rpm_host, work), RELEASE) == WHOLE


async def test_a_database_whose_name_is_a_macro(
    published: RpmRepository,
    rpm_host: RpmHost,
    work: Path,
    directory: Path,
    rpm_keys: tuple[RpmKey, RpmKey],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image's own symlink leads to it."""
    put_before(monkeypatch, directory, "kh-ran", f"touch {directory}/ran")
    rpm_host.import_key(rpm_keys[0])
    rpm_host.key_file.unlink()
    (rpm_host.root / "var/lib/rpm").rename(rpm_host.root / "var/lib/%(kh-ran)")
    (rpm_host.root / "var/lib/rpm").symlink_to("%(kh-ran)")
    try:
        archive = await find(rpm_host, work)
    finally:
        assert not named(directory, "ran")
    assert files_of(archive, RELEASE) == WHOLE


async def test_files_whose_names_are_macros(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a key, which an image names, and of a package, which a repository does."""
    put_before(monkeypatch, directory, "kh-ran", f"touch {directory}/ran")
    rpm_host.key_file.rename(rpm_host.key_file.with_name("%(kh-ran)"))
    rpm_host.configure(more="gpgkey=file:///etc/pki/rpm-gpg/%(kh-ran)\n")
    (package,) = published.directory.glob("*.rpm")
    package.rename(package.with_name("%(kh-ran)%{lua:print(1)}.rpm"))
    published.publish()
    with contextlib.suppress(NotFound, Corrupt):
        assert files_of(await find(rpm_host, work), RELEASE) == WHOLE
    assert not named(directory, "ran")


async def test_a_host_without_keys(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    rpm_host.key_file.unlink()
    message = await refused(rpm_host, work)
    assert "NOKEY" in message
    assert "the host has no keys" in message


async def test_a_key_that_the_repository_itself_has(
    published: RpmRepository, rpm_host: RpmHost, work: Path, rpm_keys: tuple[RpmKey, RpmKey]
) -> None:
    shutil.copy(rpm_keys[0].public, published.directory / "key.asc")
    rpm_host.key_file.unlink()
    rpm_host.configure(more=f"repo_gpgcheck=0\ngpgkey={published.server.address}/key.asc\n")
    assert "NOKEY" in await refused(rpm_host, work)


@pytest.mark.parametrize("metadata", ["old", "new"])
async def test_a_package_that_was_changed(
    published: RpmRepository, rpm_host: RpmHost, work: Path, metadata: str
) -> None:
    (package,) = published.directory.glob("*.rpm")
    content = bytearray(package.read_bytes())
    content[-20] ^= 1
    package.write_bytes(content)
    if metadata == "new":
        published.publish()
        assert "BAD" in await refused(rpm_host, work)
    else:
        assert "checksum" in await refused(rpm_host, work)


async def test_the_headers_of_another_kernel(
    repository: RpmRepository, rpm_host: RpmHost, work: Path
) -> None:
    repository.add_kernel(RELEASE, headers_of(RELEASE, of="6.1.98-200.fc37.x86_64"))
    repository.publish()
    assert "is of kernel 6.1.98" in refusal(await find(rpm_host, work), RELEASE)


async def test_a_package_of_another_kernel_under_this_name(
    repository: RpmRepository, rpm_host: RpmHost, work: Path
) -> None:
    other = repository.add_kernel("6.1.98-200.fc37.x86_64")
    repository.publish()
    # The metadata are not signed: whoever has the repository writes them.
    (primary,) = (repository.directory / "repodata").glob("*-primary.xml.gz")
    text = gzip.decompress(primary.read_bytes()).decode()
    location = f'href="{other.name}"'
    lie = text.replace("6.1.98", "6.1.99").replace(location.replace("6.1.98", "6.1.99"), location)
    primary.write_bytes(gzip.compress(lie.encode()))
    repomd = repository.directory / "repodata/repomd.xml"
    run("modifyrepo_c", "--mdtype=primary", "--no-compress", str(primary), str(repomd.parent))
    assert "what it has there is kernel-devel-0:6.1.98-200.fc37.x86_64" in await refused(rpm_host, work)


async def test_the_network_is_down(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    rpm_host.configure(address="http://127.0.0.1:1")
    with pytest.raises(NotFound, match="could not use all repositories") as caught:
        await find(rpm_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert left_in(work) == []


async def test_the_network_ends_in_the_middle(
    published: RpmRepository, rpm_host: RpmHost, work: Path
) -> None:
    published.server.breaks = True
    with pytest.raises(NotFound, match="cannot be downloaded") as caught:
        await find(rpm_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert left_in(work) == []


async def test_a_package_that_is_gone(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    (package,) = published.directory.glob("*.rpm")
    package.unlink()
    with pytest.raises(NotFound, match="404"):
        await find(rpm_host, work)
    assert left_in(work) == []


async def test_cancelling_a_download(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    published.server.stalls = True
    task = asyncio.create_task(find(rpm_host, work))
    assert await asyncio.to_thread(published.server.stalled.wait, 30)
    assert left_in(work)
    await check_cancelling(task, work)


async def test_an_archive_of_old_packages(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, rpm_keys: tuple[RpmKey, RpmKey]
) -> None:
    old = Release("6.1.7-200.fc37.x86_64")
    with rpm_served(directory / "archive", rpm_keys[0]) as archive:
        archive.add_kernel(old)
        archive.add_kernel("6.1.8-200.fc37.x86_64", key=rpm_keys[1])
        archive.publish()
        extra = (f"{archive.server.address}/",)
        with pytest.raises(NotFound, match="ExtraRepositories="):
            await find(rpm_host, work, old)
        assert files_of(await find(rpm_host, work, old, extra), old) == WHOLE
        with pytest.raises(Corrupt, match="NOKEY"):
            await find(rpm_host, work, Release("6.1.8-200.fc37.x86_64"), extra)


async def test_repositories_that_exclude_kernels(
    published: RpmRepository, rpm_host: RpmHost, work: Path
) -> None:
    rpm_host.configure(more="exclude=kernel*\n")
    assert (await find(rpm_host, work)).layers


async def test_a_repository_that_is_disabled(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    rpm_host.configure(more="enabled=0\n")
    with pytest.raises(NotFound):
        await find(rpm_host, work)
    assert published.server.requests == []


@pytest.mark.parametrize("address", ["file:///", "ftp://127.0.0.1/", "/srv"])
async def test_an_image_reads_no_file_of_this_machine(rpm_host: RpmHost, work: Path, address: str) -> None:
    rpm_host.configure(address=address)
    with pytest.raises(NotFound, match="only http and https") as caught:
        await find(rpm_host, work)
    assert caught.value.reason is Reason.UNSUPPORTED


# Hostile packages


async def test_devices_and_set_user_id(repository: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    files = headers_of(RELEASE)
    top = f"/usr/src/kernels/{RELEASE}/include/linux"
    repository.add_kernel(
        RELEASE, files, more=f"%attr(6755,root,root) {top}/types.h\n%dev(c,1,3) /dev/outside\n"
    )
    repository.publish()
    archive = await find(rpm_host, work)
    assert files_of(archive, RELEASE) == WHOLE
    tree = work.parent / "tree"
    extract_archive(tree, archive)
    assert stat.S_IMODE((tree / "include/linux/types.h").stat().st_mode) == 0o444


async def test_a_device_among_the_headers(repository: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    device = f"%dev(c,1,3) /usr/src/kernels/{RELEASE}/include/linux/null.h\n"
    repository.add_kernel(RELEASE, more=device)
    repository.publish()
    assert "it is a character device" in refusal(await find(rpm_host, work), RELEASE)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/usr/src/kernels/../../../tmp/{}/", "the name has a '.' or '..' component"),
        ("/../../../../../../../{}/", "the name has a '.' or '..' component"),
        ("//{}/", "cannot be unpacked by rpm2archive"),
    ],
)
async def test_names_that_lead_out(
    repository: RpmRepository, rpm_host: RpmHost, work: Path, name: str, told: str
) -> None:
    package = repository.add_kernel(RELEASE, signed=False, payload="w.ufdio")
    old = f"/usr/src/kernels/{RELEASE}/include/linux/"
    rename_in_rpm(package, old, name.format("x" * (len(old) - len(name) + 2)))
    repository.key.sign(package)
    repository.publish()
    try:
        message = refusal(await find(rpm_host, work), RELEASE)
    except Corrupt as error:
        message = error.message
    assert told in message
    assert left_in(work) == []


def named(directory: Path, pattern: str) -> set[Path]:
    return set(directory.rglob(pattern))


@pytest.mark.parametrize("up", ["../../../../../../", "/../../", "repodata/../../../../"])
async def test_lists_that_lead_out(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, up: str
) -> None:
    """librepo before 1.12.1 wrote there (CVE-2020-14352)."""
    repomd = published.directory / "repodata/repomd.xml"
    repomd.write_text(re.sub(r'href="repodata/([^"]*-primary)', rf'href="{up}outside/\1', repomd.read_text()))
    outside = published.directory / "outside"
    shutil.copytree(published.directory / "repodata", outside)
    known = named(directory, "*primary*")
    with pytest.raises((NotFound, Corrupt)):
        await find(rpm_host, work)
    written = named(directory, "*primary*") - known
    assert [path for path in written if not path.is_relative_to(work / "dnf")] == []
    assert left_in(work) == []


@pytest.mark.parametrize("up", ["../../../../../../", "/../../", "a/../../../../"])
async def test_a_package_whose_place_leads_out(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, up: str
) -> None:
    (package,) = published.directory.glob("*.rpm")
    (primary,) = (published.directory / "repodata").glob("*-primary.xml.gz")
    text = gzip.decompress(primary.read_bytes()).decode()
    primary.write_bytes(gzip.compress(text.replace('href="', f'href="{up}outside/').encode()))
    repomd = published.directory / "repodata/repomd.xml"
    run("modifyrepo_c", "--mdtype=primary", "--no-compress", str(primary), str(repomd.parent))
    outside = published.directory / "outside"
    outside.mkdir()
    shutil.copy(package, outside)
    known = named(directory, "*.rpm")
    # Where it is found all the same, it is the genuine package.
    with contextlib.suppress(NotFound, Corrupt):
        assert files_of(await find(rpm_host, work), RELEASE) == WHOLE
    assert named(directory, "*.rpm") == known
    assert left_in(work) == []


# Managers that misbehave


async def test_too_large(
    published: RpmRepository, rpm_host: RpmHost, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_work, "MAX_DOWNLOAD", 1000)
    with pytest.raises(LimitsExceeded, match="and 1000 are accepted"):
        await find(rpm_host, work)
    assert not [path for path in published.server.requests if path.endswith(".rpm")]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("printf 'Is this ok [y/N]: '; read a || { echo 'Operation aborted.' >&2; exit 1; }", "aborted"),
        ("head -c 30000000 /dev/zero | tr '\\0' x >&2; exit 1", "x{100}"),
        ("echo '\033[31mred' >&2; exit 1", r"\\x1b"),
        ("echo 'kernel-devel 0 6.1.99 200.fc37 x86_64 99999999999 test'", "bytes"),
        ("echo '--help 0 6.1.99 200.fc37 x86_64 1 test'", "finds no package"),
        ("exit 3", "finds no package"),
    ],
)
async def test_a_manager_that_misbehaves(
    published: RpmRepository,
    rpm_host: RpmHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    told: str,
) -> None:
    put_before(monkeypatch, directory, "dnf-3", script)
    try:
        await find(rpm_host, work)
    except (NotFound, KheadersError) as error:
        message = error.message
    assert re.search(told, message)
    assert len(message) < 1000
    assert left_in(work) == []


async def test_a_manager_that_hangs(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"trap '' TERM; touch {directory}/started; sleep 1000 & sleep 1000"
    put_before(monkeypatch, directory, "dnf-3", script)
    task = asyncio.create_task(find(rpm_host, work))
    await wait_for(directory / "started")
    await check_cancelling(task, work)


async def test_a_manager_that_takes_too_long(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheadersd.sources.dnf.DOWNLOAD_SECONDS", 0.5)
    put_before(monkeypatch, directory, "dnf-3", "sleep 1000")
    with pytest.raises(Timeout, match=r"^dnf-3 took longer than 0.5 s"):
        await find(rpm_host, work)
    assert left_in(work) == []


async def test_a_manager_that_writes_too_much(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheadersd.sources.dnf.MAX_INDEX", 1 << 20)
    put_before(monkeypatch, directory, "dnf-3", "trap '' XFSZ; cat /dev/zero >big")
    with pytest.raises(LimitsExceeded, match="File too large"):
        await find(rpm_host, work)
    assert left_in(work) == []


async def test_an_unpacked_package_that_is_too_large(
    published: RpmRepository, rpm_host: RpmHost, work: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kheadersd.sources.rpm_verify.MAX_UNPACKED", 4096)
    with pytest.raises((LimitsExceeded, Corrupt), match="rpm2archive"):
        await find(rpm_host, work)
    assert left_in(work) == []


async def test_what_a_crash_left_is_removed(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    (work / "run-abc" / "packages").mkdir(parents=True)
    await PackageSource(rpm_host.host, work).offered(RELEASE)
    assert left_in(work) == []


@needs_root("all tests run unprivileged already")
def test_an_unprivileged_daemon(published: RpmRepository, rpm_host: RpmHost, work: Path) -> None:
    before = state_of(rpm_host.root)
    work.parent.mkdir()
    os.chown(work.parent, UNPRIVILEGED, UNPRIVILEGED)

    async def job() -> None:
        assert (await find(rpm_host, work)).layers

    assert as_nobody(job()) == 0
    assert {path.stat().st_uid for path in work.rglob("*")} == {UNPRIVILEGED}
    assert left_in(work) == []
    assert state_of(rpm_host.root) == before
