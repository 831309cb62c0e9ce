"""The package source on a real zypper and rpm, and small repositories that are signed as openSUSE's are."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import re
import shutil
from pathlib import Path

import pytest

from kheadersd.errors import KheadersError, LimitsExceeded, Timeout
from kheadersd.release import Release
from kheadersd.sources.package import PackageSource
from kheadersd.sources.package_work import digest_of
from kheadersd.sources.source import Archive, NotFound, Reason
from tests.real.zypper.conftest import RELEASE, VERSION
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
from tests.support.rpm_repository import RpmKey
from tests.support.suse_repository import SuseHost, SuseRepository, objects_of, sources_of, suse_served

pytestmark = pytest.mark.slow

ORIGIN = f"kernel-default-devel {VERSION}.1, kernel-devel {VERSION}.1"


async def find(
    suse_host: SuseHost, work: Path, release: Release = RELEASE, extra: tuple[str, ...] = ()
) -> Archive:
    return await PackageSource(suse_host.host, work, extra).find(release, silent)


async def test_two_packages(
    published: SuseRepository, suse_host: SuseHost, work: Path, kernel: list[Path]
) -> None:
    before = state_of(suse_host.root)
    source = PackageSource(suse_host.host, work)
    assert await source.offered(RELEASE) is None
    assert published.server.requests == []
    archive = await source.find(RELEASE, silent)
    assert archive.origin == ORIGIN
    digests = [hashlib.sha256(package.read_bytes()).hexdigest() for package in kernel]
    assert archive.digest == digest_of(digests)
    assert files_of(archive, RELEASE) == WHOLE
    assert left_in(work) == []
    asked = len(published.server.requests)
    assert await source.offered(RELEASE) == ORIGIN
    assert len(published.server.requests) == asked
    # SQLite's index of readers, which root may write to.
    changed = {name for name, state in state_of(suse_host.root).items() if before.get(name) != state}
    assert [name for name in changed if not name.endswith("rpmdb.sqlite-shm")] == []


async def test_the_version_is_exact(repository: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    """The counter of rebuilds is not the release's, and 23.4 is not 23.47."""
    for version, rebuilt in (("6.4.0-150600.23.47", ".1"), ("6.4.0-150600.23.4", ".7")):
        repository.add_kernel(version, rebuilt=rebuilt)
    repository.add_kernel("6.4.0-150600.23.4", rebuilt=".12")
    repository.publish()
    release = Release("6.4.0-150600.23.4-default")
    archive = await find(suse_host, work, release)
    assert archive.origin == "kernel-default-devel 6.4.0-150600.23.4.12, kernel-devel 6.4.0-150600.23.4.12"
    assert files_of(archive, release) == WHOLE


async def test_a_flavour_with_sources_of_its_own(
    repository: SuseRepository, suse_host: SuseHost, work: Path
) -> None:
    version, release = "6.4.0-150600.10.17", Release("6.4.0-150600.10.17-rt")
    repository.add("kernel-rt-devel", version, objects_of(version, "rt", variant="-rt"))
    repository.add("kernel-devel-rt", version, sources_of(version, variant="-rt"))
    repository.add("kernel-devel", version, sources_of(version))
    repository.publish()
    archive = await find(suse_host, work, release)
    assert archive.origin == f"kernel-rt-devel {version}.1, kernel-devel-rt {version}.1"
    assert files_of(archive, release) == WHOLE


async def test_two_kernels_at_once(repository: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    versions = ["6.16.1-1", "6.16.2-1"]
    for version in versions:
        repository.add_kernel(version)
    repository.publish()
    source = PackageSource(suse_host.host, work)
    releases = [Release(f"{version}-default") for version in versions]
    archives = await asyncio.gather(*(source.find(release, silent) for release in releases))
    for archive, release in zip(archives, releases, strict=True):
        assert files_of(archive, release) == WHOLE
    assert left_in(work) == []


@pytest.mark.parametrize(
    "release", ["6.1.99", "6.4.0-150600.23.48-default", "6.4.0-*-default", "-6-1-default", "6.4.0-1 - 2-x"]
)
async def test_an_unknown_release(
    published: SuseRepository, suse_host: SuseHost, work: Path, release: str
) -> None:
    with pytest.raises(NotFound, match=r"provides|openSUSE's") as caught:
        await find(suse_host, work, Release(release))
    assert caught.value.reason is Reason.MISSING
    with pytest.raises(NotFound):
        await PackageSource(suse_host.host, work).offered(Release(release))
    assert not [path for path in published.server.requests if path.endswith(".rpm")]


@pytest.mark.parametrize("name", ["kernel-default-devel", "kernel-devel"])
async def test_one_of_the_two_is_missing(
    repository: SuseRepository, suse_host: SuseHost, work: Path, name: str
) -> None:
    repository.add(name, VERSION, sources_of(VERSION))
    repository.publish()
    other = {"kernel-default-devel": "kernel-devel", "kernel-devel": "kernel-default-devel"}[name]
    with pytest.raises(NotFound, match=f"no package that provides {other} = {VERSION};") as caught:
        await find(suse_host, work)
    assert caught.value.reason is Reason.MISSING
    assert not [path for path in repository.server.requests if path.endswith(".rpm")]


# Signatures


async def refused(suse_host: SuseHost, work: Path, release: Release = RELEASE) -> str:
    """The message of packages that are not taken, of which nothing is left."""
    try:
        await find(suse_host, work, release)
    except (KheadersError, NotFound) as error:
        assert left_in(work) == []
        return error.message
    raise AssertionError("they are taken")


async def test_lists_that_are_not_signed(repository: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    repository.add_kernel(VERSION)
    repository.publish(signed=False)
    suse_host.configure(more="gpgcheck=0\nrepo_gpgcheck=0\npkg_gpgcheck=0\n")
    assert "could not use all repositories" in await refused(suse_host, work)
    assert not [path for path in repository.server.requests if path.endswith(".rpm")]


async def test_lists_that_are_signed_by_another(
    repository: SuseRepository, suse_host: SuseHost, work: Path, rpm_keys: tuple[RpmKey, RpmKey]
) -> None:
    repository.add_kernel(VERSION)
    repository.publish(key=rpm_keys[1])
    assert "Signature verification failed for repomd.xml" in await refused(suse_host, work)
    # As an administrator accepts it: "rpm --import".
    suse_host.import_key(rpm_keys[1])
    assert files_of(await find(suse_host, work), RELEASE) == WHOLE


async def test_a_host_without_keys(published: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    suse_host.forget_keys()
    assert "Signature verification failed for repomd.xml" in await refused(suse_host, work)


@pytest.mark.parametrize("name", ["kernel-default-devel", "kernel-devel"])
async def test_an_unsigned_package(
    published: SuseRepository, suse_host: SuseHost, work: Path, name: str
) -> None:
    files = {"kernel-default-devel": objects_of, "kernel-devel": sources_of}[name](VERSION)
    published.add(name, VERSION, files, signed=False)
    published.publish()
    assert f"rpmkeys did not verify {name}" in await refused(suse_host, work)


async def test_a_package_that_is_signed_by_another(
    published: SuseRepository, suse_host: SuseHost, work: Path, rpm_keys: tuple[RpmKey, RpmKey]
) -> None:
    published.add("kernel-devel", VERSION, sources_of(VERSION), key=rpm_keys[1])
    published.publish()
    assert "NOKEY" in await refused(suse_host, work)


async def test_a_package_that_was_changed(published: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    (package,) = published.directory.glob("kernel-devel-*.rpm")
    content = bytearray(package.read_bytes())
    content[-100] ^= 1
    package.write_bytes(content)
    assert "zypper refused kernel-default-devel" in await refused(suse_host, work)


async def test_rpmkeys_verifies_what_zypper_does_not(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A zypper that checks nothing, and leaves a package that was changed."""
    archive = await find(suse_host, work)
    assert archive.origin == ORIGIN
    real = shutil.which("zypper")
    change = "find \"${0%/bin/zypper}\" -path '*/run-*/kernel-devel-*.rpm' -exec truncate --size=-1 {} +"
    put_before(monkeypatch, directory, "zypper", f'{real} "$@"\nstatus=$?\n{change}\nexit $status')
    assert "rpmkeys did not verify kernel-devel" in await refused(suse_host, work)


# Lies


async def test_the_headers_of_another_kernel(
    repository: SuseRepository, suse_host: SuseHost, work: Path
) -> None:
    repository.add("kernel-default-devel", VERSION, objects_of(VERSION, of="6.4.0-1-default"))
    repository.add("kernel-devel", VERSION, sources_of(VERSION))
    repository.publish()
    assert "6.4.0-1-default" in refusal(await find(suse_host, work), RELEASE)


async def test_the_directory_of_another_kernel(
    repository: SuseRepository, suse_host: SuseHost, work: Path
) -> None:
    repository.add("kernel-default-devel", VERSION, objects_of("6.4.0-1"))
    repository.add("kernel-devel", VERSION, sources_of(VERSION))
    repository.publish()
    assert refusal(await find(suse_host, work), RELEASE)


def change_primary(repository: SuseRepository, old: str, new: str) -> None:
    """Replace a part of the list of packages, which is then signed."""
    directory = repository.directory / "repodata"
    (primary,) = directory.glob("*-primary.xml.gz")
    text = gzip.decompress(primary.read_bytes()).decode()
    assert old in text
    primary.write_bytes(gzip.compress(text.replace(old, new).encode()))
    run("modifyrepo_c", "--mdtype=primary", "--no-compress", str(primary), str(directory))
    repository.sign_lists()


async def test_the_lists_name_another_package(
    repository: SuseRepository, suse_host: SuseHost, work: Path
) -> None:
    """Lists that say of a package that it is the kernel's: it is signed, and another kernel's."""
    repository.add_kernel("6.4.0-1")
    repository.publish()
    change_primary(repository, 'ver="6.4.0" rel="1', f'ver="6.4.0" rel="{VERSION.partition("-")[2]}')
    assert "zypper was to download kernel-default-devel-0:" in await refused(suse_host, work)


def named(directory: Path, pattern: str) -> set[Path]:
    return set(directory.rglob(pattern))


@pytest.mark.parametrize("up", ["../../../../../../", "/../../", "repodata/../../../../"])
async def test_unsigned_lists_that_lead_out(
    published: SuseRepository, suse_host: SuseHost, work: Path, directory: Path, up: str
) -> None:
    """libzypp before 17.38.10 writes there (CVE-2026-25707)."""
    repomd = published.directory / "repodata/repomd.xml"
    repomd.write_text(re.sub(r'href="repodata/([^"]*-primary)', rf'href="{up}outside/\1', repomd.read_text()))
    outside = published.directory / "outside"
    shutil.copytree(published.directory / "repodata", outside)
    suse_host.configure(more="gpgcheck=0\nrepo_gpgcheck=0\n")
    known = named(directory, "*primary*")
    await refused(suse_host, work)
    for suffix in (".asc", ".key"):
        repomd.with_name(repomd.name + suffix).unlink()
    await refused(suse_host, work)
    assert named(directory, "*primary*") == known


# Networks


async def test_the_network_is_gone_in_the_middle(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the lists; a connection that breaks within a package takes libzypp 17.25 three minutes."""
    gone = 'case "$*" in *" download "*) export http_proxy=http://127.0.0.1:1 no_proxy=; esac'
    put_before(monkeypatch, directory, "zypper", f'{gone}\nexec {shutil.which("zypper")} "$@"')
    with pytest.raises(NotFound, match="cannot be downloaded by zypper") as caught:
        await find(suse_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert left_in(work) == []


async def test_a_package_that_is_gone(published: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    (package,) = published.directory.glob("kernel-devel-*.rpm")
    package.unlink()
    with pytest.raises(NotFound, match=r"cannot be downloaded by zypper: File .* not found"):
        await find(suse_host, work)
    assert left_in(work) == []


async def test_no_network(published: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    suse_host.configure(address="http://127.0.0.1:1/")
    with pytest.raises(NotFound, match=r"could not use all repositories: .*127\.0\.0\.1:1") as caught:
        await find(suse_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert left_in(work) == []


async def test_cancelling_a_download(published: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    published.server.stalls = True
    task = asyncio.create_task(find(suse_host, work))
    assert await asyncio.to_thread(published.server.stalled.wait, 30)
    assert left_in(work)
    await check_cancelling(task, work)


async def test_an_archive_of_old_packages(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    rpm_keys: tuple[RpmKey, RpmKey],
) -> None:
    old = Release("6.4.0-150600.21-default")
    with suse_served(directory / "archive", rpm_keys[0]) as archive:
        archive.add_kernel("6.4.0-150600.21")
        archive.publish()
        extra = (f"{archive.server.address}/",)
        with pytest.raises(NotFound, match="ExtraRepositories="):
            await find(suse_host, work, old)
        assert files_of(await find(suse_host, work, old, extra), old) == WHOLE


async def test_variables_in_addresses(published: SuseRepository, suse_host: SuseHost, work: Path) -> None:
    (suse_host.root / "etc/zypp/vars.d/place").write_text("oss\n")
    target = published.directory / "15.6/oss"
    target.mkdir(parents=True)
    for path in list(published.directory.iterdir()):
        if path.name != "15.6":
            path.rename(target / path.name)
    suse_host.configure(address=f"{published.server.address}/$releasever/${{place}}")
    assert files_of(await find(suse_host, work), RELEASE) == WHOLE


@pytest.mark.parametrize(
    "address", ["file:///srv", "dir:///srv", "cd:///", "plugin:x", "http://127.0.0.1/?credentials=/etc/x", ""]
)
async def test_an_image_reads_no_file_of_this_machine(
    repository: SuseRepository, suse_host: SuseHost, work: Path, address: str
) -> None:
    suse_host.configure(address=address or "hd:///")
    with pytest.raises(NotFound, match="no repository is enabled") as caught:
        await find(suse_host, work)
    assert caught.value.reason is Reason.UNSUPPORTED


# Managers that misbehave


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("printf 'Continue? [y/n]: '; read a || { echo 'Operation aborted.' >&2; exit 1; }", "aborted"),
        ("head -c 30000000 /dev/zero | tr '\\0' x >&2; exit 1", "x{100}"),
        ("echo '\033[31mred' >&2; exit 1", r"\\x1b"),
        ('echo \'<solvable name="--help" edition="1-1" arch="noarch"/>\'', "finds no package"),
        ("exit 3", "ended with status 3"),
    ],
)
async def test_a_manager_that_misbehaves(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    told: str,
) -> None:
    put_before(monkeypatch, directory, "zypper", script)
    message = await refused(suse_host, work)
    assert re.search(told, message)
    assert len(message) < 1000
    assert left_in(work) == []


async def test_a_manager_that_takes_too_long(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kheadersd.sources.zypper.DOWNLOAD_SECONDS", 0.5)
    put_before(monkeypatch, directory, "zypper", "sleep 1000")
    with pytest.raises(Timeout, match=r"^zypper took longer than 0.5 s"):
        await find(suse_host, work)
    assert left_in(work) == []


async def test_a_manager_that_hangs(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_before(
        monkeypatch, directory, "zypper", f"trap '' TERM; touch {directory}/started; sleep 1000 & sleep 1000"
    )
    task = asyncio.create_task(find(suse_host, work))
    await wait_for(directory / "started")
    await check_cancelling(task, work)


async def test_a_manager_that_writes_too_much(
    published: SuseRepository,
    suse_host: SuseHost,
    work: Path,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kheadersd.sources.zypper.MAX_INDEX", 1 << 20)
    put_before(monkeypatch, directory, "zypper", "trap '' XFSZ; cat /dev/zero >big")
    with pytest.raises(LimitsExceeded, match="File too large"):
        await find(suse_host, work)
    assert left_in(work) == []


async def test_where_no_unit_confines_it(
    published: SuseRepository, suse_host: SuseHost, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PackageSource(suse_host.host, work)
    await source.offered(RELEASE)
    monkeypatch.setattr("kheadersd.sources.suse.is_network_confined", lambda: False)
    for run_it in (source.offered(RELEASE), find(suse_host, work)):
        with pytest.raises(NotFound, match=r"no kheaders-fetch\.socket") as caught:
            await run_it
        assert caught.value.reason is Reason.UNSUPPORTED
    assert published.server.requests == []
