"""The package source on a real apt, and a small repository that is signed as real ones are."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from kheadersd.config import Config
from kheadersd.errors import Corrupt, KheadersError, LimitsExceeded, NoSpace
from kheadersd.headers.restore import why_not_restorable
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import KernelModule, NoLoader
from kheadersd.release import Release
from kheadersd.sources.apt_command import AptCommands
from kheadersd.sources.package import PackageSource
from kheadersd.sources.package_work import UPDATE_INTERVAL, PackageWork
from kheadersd.sources.source import NotFound, Reason
from kheadersd.sources.sources import Sources
from kheadersd.sources.usable import check_usable
from tests.support.apt_repository import ARCHITECTURE, AptHost, Key, generated_files, written_files
from tests.support.extracting import extract_archive
from tests.support.needs import needs_root
from tests.support.other_user import UNPRIVILEGED, as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheadersd.sources.source import Archive, Layer
    from tests.support.apt_repository import Repository

RELEASE = Release("6.1.0-56-amd64")
OWN = f"linux-headers-{RELEASE}"
COMMON = "linux-headers-6.1.0-56-common"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ARCHITECTURE != "amd64", reason="the packages are made for amd64"),
]


def silent(stage: str, fraction: float) -> None:
    assert stage in ("downloading", "updating")
    assert 0 <= fraction <= 1


async def find(apt_host: AptHost, work: Path, release: Release = RELEASE) -> Archive:
    return await PackageSource(apt_host.host, work).find(release, silent)


def files_of(archive: Archive, release: Release = RELEASE) -> list[str]:
    """Extract, check as the daemon does, and list the files."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        extract_archive(tree, archive)
        check_usable(tree, tree, release)
        return sorted(str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_symlink() or not p.is_dir())


def left_in(work: Path) -> set[str]:
    return {path.name for path in work.iterdir()} if work.exists() else set()


WHOLE = [
    "arch/x86/include/asm/ptrace.h",
    "arch/x86/include/generated/asm/unistd.h",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
    "include/linux/kconfig.h",
    "include/linux/types.h",
]


@pytest.fixture
def split(repository: Repository, apt_host: AptHost) -> Repository:
    """A repository with one kernel, which the host's own lists know."""
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    apt_host.update()
    repository.server.requests.clear()
    return repository


async def test_a_split_tree_is_merged(split: Repository, apt_host: AptHost, work: Path) -> None:
    before = apt_host.state()
    reports: list[tuple[str, float]] = []
    source = PackageSource(apt_host.host, work)
    assert await source.offered(RELEASE) == f"{OWN} 6.1.192-2"
    assert split.server.requests == []
    archive = await source.find(RELEASE, lambda stage, fraction: reports.append((stage, fraction)))
    assert archive.origin == f"{OWN} 6.1.192-2, {COMMON} 6.1.192-2"
    assert [layer.label.partition("_")[0] for layer in archive.layers] == [OWN, COMMON]
    assert len(archive.digest) == 64
    assert archive.origin_stamp == ""
    assert left_in(work) == {"lists", "first.conf", "last.conf"}
    assert files_of(archive) == sorted([*WHOLE, "include/linux/alias.h"])
    assert files_of(archive) == sorted([*WHOLE, "include/linux/alias.h"])
    assert reports
    assert all(stage == "downloading" and 0 <= fraction <= 1 for stage, fraction in reports)
    assert apt_host.state() == before


async def test_a_whole_tree_as_bindeb_pkg_makes_it(
    repository: Repository, apt_host: AptHost, work: Path
) -> None:
    name = "linux-headers-6.9.1-custom"
    files = {**generated_files("6.9.1-Custom"), **written_files()}
    repository.add(name, "1", {f"usr/src/{name}/{path}": text for path, text in files.items()})
    repository.publish()
    apt_host.update()
    archive = await find(apt_host, work, Release("6.9.1-Custom"))
    assert files_of(archive, Release("6.9.1-Custom")) == WHOLE


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
async def test_a_flavour_of_ubuntu_full_of_symlinks(
    repository: Repository, apt_host: AptHost, work: Path, compression: str
) -> None:
    own, common = "linux-headers-6.8.0-40-generic", "linux-hwe-6.8-headers-6.8.0-40"
    generated = generated_files("6.8.0-40-generic")
    repository.add(
        own,
        "6.8.0-40.40",
        {f"usr/src/{own}/{path}": text for path, text in generated.items()},
        links={
            f"usr/src/{own}/include/linux": f"../../{common}/include/linux",
            f"usr/src/{own}/arch/x86/include/asm": f"../../../../{common}/arch/x86/include/asm",
            f"usr/src/{own}/Makefile": f"../{common}/Makefile",
        },
        depends=f"{common}, libc6 (>= 2.38), libelf1t64 | libelf1",
        compression=compression,
    )
    written = {f"usr/src/{common}/{path}": text for path, text in written_files().items()}
    repository.add(common, "6.8.0-40.40", written, compression=compression)
    repository.publish()
    apt_host.update()
    release = Release("6.8.0-40-generic")
    assert files_of(await find(apt_host, work, release), release) == WHOLE


async def test_the_digest_is_of_the_packages(split: Repository, apt_host: AptHost, work: Path) -> None:
    import hashlib

    paths = [split.pool / f"{name}_6.1.192-2_amd64.deb" for name in (OWN, COMMON)]
    lines = "".join(hashlib.sha256(path.read_bytes()).hexdigest() + "\n" for path in paths)
    archive = await find(apt_host, work)
    assert archive.digest == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.usefixtures("split")
@pytest.mark.parametrize("release", ["6.1.0-57-amd64", "6.1", "6.1.0-56-", "6.1.0-.", "6.1.0-56-amd6+"])
async def test_an_unknown_release(apt_host: AptHost, work: Path, release: str) -> None:
    source = PackageSource(apt_host.host, work)
    assert await source.offered(Release(release)) is None
    with pytest.raises(NotFound, match=f"apt knows no package linux-headers-{release}") as caught:
        await source.find(Release(release), silent)
    assert caught.value.reason is Reason.MISSING
    with pytest.raises(NotFound, match="apt knows no package"):
        await source.offered(Release(release))


@pytest.mark.usefixtures("split")
async def test_a_meta_package_is_no_kernel(apt_host: AptHost, work: Path) -> None:
    with pytest.raises(NotFound) as caught:
        await PackageSource(apt_host.host, work).offered(Release("amd64"))
    assert caught.value.reason is Reason.MISSING


async def test_a_host_without_lists_of_its_own(repository: Repository, apt_host: AptHost, work: Path) -> None:
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    before = apt_host.state()
    source = PackageSource(apt_host.host, work)
    assert await source.offered(RELEASE) is None
    assert repository.server.requests == []
    assert set(WHOLE) < set(files_of(await source.find(RELEASE, silent)))
    assert await source.offered(RELEASE) == f"{OWN} 6.1.192-2"
    assert apt_host.state() == before
    assert left_in(work) == {"lists", "first.conf", "last.conf", "updated"}


async def test_headers_come_back_from_a_package_while_the_lists_offer_it(
    repository: Repository, apt_host: AptHost, work: Path
) -> None:
    sources = Sources(
        apt_host.host,
        KernelModule(apt_host.host, NoLoader("no module here")),
        work,
    )
    entry: Any = SimpleNamespace(release=RELEASE)
    config = Config(sources=("package",))
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    assert "only known after a download" in await why_not_restorable(entry, sources, config)
    apt_host.update()
    assert await why_not_restorable(entry, sources, config) == ""
    # As distributions do with kernels that were replaced.
    (repository.pool / f"{OWN}_6.1.192-2_amd64.deb").unlink()
    repository.publish()
    apt_host.update()
    assert await why_not_restorable(entry, sources, config) != ""


async def test_our_lists_are_fetched_at_most_every_ten_minutes(
    split: Repository, apt_host: AptHost, work: Path
) -> None:
    unknown = Release("6.1.0-57-amd64")
    source = PackageSource(apt_host.host, work)
    with pytest.raises(NotFound):
        await source.find(unknown, silent)
    asked = len(split.server.requests)
    assert asked > 0
    for again in (source, PackageSource(apt_host.host, work)):
        with pytest.raises(NotFound):
            await again.find(unknown, silent)
    assert len(split.server.requests) == asked
    split.add_split(unknown, "6.1.193-1")
    split.publish()
    long_ago = (work / "updated").stat().st_mtime - UPDATE_INTERVAL - 1
    os.utime(work / "updated", (long_ago, long_ago))
    assert (await find(apt_host, work, unknown)).layers


async def test_two_releases_at_the_same_time(repository: Repository, apt_host: AptHost, work: Path) -> None:
    releases = [Release("6.1.0-56-amd64"), Release("6.1.0-57-amd64")]
    for release in releases:
        repository.add_split(release, "6.1.192-2")
    repository.publish()
    source = PackageSource(apt_host.host, work)
    archives = await asyncio.gather(*(source.find(release, silent) for release in releases))
    for archive, release in zip(archives, releases, strict=True):
        assert set(WHOLE) < set(files_of(archive, release))
    assert len([request for request in repository.server.requests if request.endswith("InRelease")]) == 1


async def test_lists_that_are_out_of_date(split: Repository, apt_host: AptHost, work: Path) -> None:
    for path in split.pool.glob("*.deb"):
        path.unlink()
    split.add_split(RELEASE, "6.1.192-3")
    split.publish()
    assert (await find(apt_host, work)).origin == f"{OWN} 6.1.192-3, {COMMON} 6.1.192-3"


async def test_a_package_that_is_gone_everywhere(split: Repository, apt_host: AptHost, work: Path) -> None:
    for path in split.pool.glob("*.deb"):
        path.unlink()
    with pytest.raises(NotFound, match=r"is not there any more.*404"):
        await find(apt_host, work)
    assert not [name for name in left_in(work) if name.startswith("run-")]


async def test_a_package_that_is_not_what_the_lists_promise(
    split: Repository, apt_host: AptHost, work: Path
) -> None:
    path = split.pool / f"{COMMON}_6.1.192-2_amd64.deb"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="Hash Sum mismatch"):
        await find(apt_host, work)
    assert left_in(work) == {"lists", "first.conf", "last.conf"}


async def test_unsigned_lists_are_not_taken(repository: Repository, apt_host: AptHost, work: Path) -> None:
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish(signed=False)
    with pytest.raises(NotFound, match="is not signed") as caught:
        await find(apt_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert not [request for request in repository.server.requests if request.endswith(".deb")]


async def test_a_package_of_unsigned_lists_is_not_taken(
    repository: Repository, apt_host: AptHost, work: Path
) -> None:
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish(signed=False)
    apt_host.update()  # the administrator allows it, the daemon does not
    with pytest.raises(Corrupt, match="could not verify"):
        await find(apt_host, work)
    assert not [request for request in repository.server.requests if request.endswith(".deb")]


async def test_lists_signed_with_another_key(
    repository: Repository, apt_host: AptHost, work: Path, directory: Path
) -> None:
    other = Key(directory / "other")
    try:
        sources = repository.sources_line()
        signed_by = sources.partition("signed-by=")[2].split()[0]
        apt_host.configure(sources.replace(signed_by, str(other.public)))
    finally:
        other.close()
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    with pytest.raises(NotFound, match=r"NO_PUBKEY|not signed") as caught:
        await find(apt_host, work)
    assert caught.value.reason is Reason.UNREADABLE


async def test_the_network_is_down(split: Repository, apt_host: AptHost, work: Path) -> None:
    split.close()
    with pytest.raises(NotFound, match="onnect") as caught:
        await find(apt_host, work)
    assert caught.value.reason is Reason.UNREADABLE
    assert left_in(work) == {"lists", "first.conf", "last.conf"}


async def test_cancelling_a_download(split: Repository, apt_host: AptHost, work: Path) -> None:
    split.server.stalls = True
    task = asyncio.create_task(find(apt_host, work))
    assert await asyncio.to_thread(split.server.stalled.wait, 30)
    assert [name for name in left_in(work) if name.startswith("run-")]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(work) == {"lists", "first.conf", "last.conf"}


async def test_an_apt_that_hangs(
    split: Repository, apt_host: AptHost, work: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = directory / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text(f"#!/bin/sh\ntrap '' TERM\ntouch {directory}/started\nsleep 1000 & sleep 1000\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    task = asyncio.create_task(find(apt_host, work))
    while not (directory / "started").exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(work) == {"lists", "first.conf", "last.conf"}
    assert split.server.requests == []


@pytest.mark.usefixtures("split")
async def test_what_a_crash_left_is_removed(apt_host: AptHost, work: Path) -> None:
    (work / "run-abc" / "packages").mkdir(parents=True)
    (work / "run-abc" / "packages" / "a.deb").touch()
    await PackageSource(apt_host.host, work).offered(RELEASE)
    assert left_in(work) == {"lists", "first.conf", "last.conf"}


async def test_the_cache_removed_meanwhile(split: Repository, apt_host: AptHost, work: Path) -> None:
    import shutil

    source = PackageSource(apt_host.host, work)
    await source.offered(RELEASE)
    shutil.rmtree(work)
    assert (await source.find(RELEASE, silent)).layers
    assert len([request for request in split.server.requests if request.endswith(".deb")]) == 2


async def test_too_large_and_too_many(repository: Repository, apt_host: AptHost, work: Path) -> None:
    repository.add(OWN, "1", {}, depends=", ".join(f"linux-headers-6.1.0-{n}" for n in range(5)))
    repository.publish()
    apt_host.update()
    with pytest.raises(LimitsExceeded, match="depends on 5 packages"):
        await find(apt_host, work)


@pytest.fixture
def full_disk(directory: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: only root can mount a small file system")
    path = directory / "full"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "kheadersd-test", str(path)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a tmpfs here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_disk_without_room(repository: Repository, apt_host: AptHost, full_disk: Path) -> None:
    import random

    noise = random.Random(1).randbytes(100_000).hex()
    repository.add(OWN, "1", {f"usr/src/{OWN}/include/linux/a.h": noise})
    repository.publish()
    apt_host.update()
    with pytest.raises(NoSpace, match="bytes to download"):
        await find(apt_host, full_disk / "work")
    assert left_in(full_disk / "work") == {"lists", "first.conf", "last.conf"}


@pytest.fixture
def planted(apt_host: AptHost) -> Path:
    """Programs in an image, which leave "ran" beside them when they are run."""
    programs = apt_host.root / "m"
    programs.mkdir()
    for name in ("http", "gpgv", "store", "proxy"):
        (programs / name).write_text(f"#!/bin/sh\nid >>{programs}/ran\n")
        (programs / name).chmod(0o755)
    return programs


@pytest.mark.parametrize(
    "configuration",
    [
        'Dir::Bin::methods "m";',
        'Dir::Bin::methods "{m}";',
        'Dir::Bin::methods::http "{m}/http";',
        'Acquire::http::Proxy-Auto-Detect "{m}/proxy"; APT::Sandbox::User "root";',
        'Acquire::http::ProxyAutoDetect "{m}/proxy";',
        'APT::Update::Pre-Invoke {{ "{m}/proxy"; }};',
    ],
)
async def test_no_program_of_an_image_is_run(
    repository: Repository, apt_host: AptHost, work: Path, planted: Path, configuration: str
) -> None:
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    text = configuration.format(m=planted)
    for name in ("apt.conf", "apt.conf.d/99"):
        (apt_host.root / "etc/apt" / name).write_text(text)
    assert (await find(apt_host, work)).layers
    assert not (planted / "ran").exists()


async def test_no_program_that_an_image_s_source_names_is_run(
    repository: Repository, apt_host: AptHost, work: Path, planted: Path
) -> None:
    """apt itself takes any path for the name of a method."""
    repository.publish()
    up = "/".join([".."] * 8)
    apt_host.configure(f"deb [trusted=yes] {up}{planted}/http://127.0.0.1:1/ stable main\n")
    with pytest.raises(NotFound, match="could not be found"):
        await find(apt_host, work)
    assert not (planted / "ran").exists()


@pytest.mark.parametrize("scheme", ["file", "copy", "mirror+file"])
async def test_an_image_reads_no_file_of_this_machine(
    repository: Repository, apt_host: AptHost, work: Path, directory: Path, scheme: str
) -> None:
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    apt_host.configure(f"deb [trusted=yes arch=amd64] {scheme}:{directory}/repository stable main\n")
    with pytest.raises(NotFound, match="could not be found"):
        await find(apt_host, work)


@pytest.mark.parametrize("name", ["sources.list", "sources.list.d/a.list", "preferences.d"])
async def test_a_link_out_of_an_image_s_configuration(
    apt_host: AptHost, work: Path, directory: Path, name: str
) -> None:
    path = apt_host.root / "etc/apt" / name
    path.parent.mkdir(exist_ok=True)
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(directory)
    with pytest.raises(NotFound, match="leads out of it") as caught:
        await PackageSource(apt_host.host, work).offered(RELEASE)
    assert caught.value.reason is Reason.UNSUPPORTED


def dumped(host: Host, work: Path) -> str:
    """The configuration that apt has for a host."""
    commands = AptCommands(host, PackageWork(work))
    commands.prepare()
    environment = {**os.environ, **commands.environment()}
    command = ["apt-config", "dump", f"--config-file={work}/last.conf"]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.usefixtures("planted")
def test_what_is_left_of_an_image_s_configuration(apt_host: AptHost, work: Path) -> None:
    configuration = (
        'Dir::Bin { methods "m"; gzip "/m/z"; apt-key "/m/k"; }; Acquire::http::Proxy "http://m:1/";'
    )
    configuration += ' APT::Compressor::x::Binary "/m/x"; Dir::Bin::solvers { "/m"; }; DPkg::Path "/m";'
    (apt_host.root / "etc/apt/apt.conf.d/99").write_text(configuration)
    left = dumped(apt_host.host, work)
    assert not re.search(r'"/m["/]', left)
    assert '"m"' not in left
    assert "//m:1" not in left
    assert 'APT::Sandbox::User "_apt";' in left
    programs = [line for line in left.splitlines() if line.startswith("Dir::Bin::methods")]
    assert 'Dir::Bin::methods::http "/usr/lib/apt/methods/http";' in programs
    assert str(apt_host.root) not in "".join(
        line for line in left.splitlines() if not line.startswith(("Dir ", "Dir::State"))
    )


def test_this_machine_s_own_configuration_holds(work: Path) -> None:
    """All that its administrator said but for hooks and indexes."""
    own = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True).stdout
    left = set(dumped(Host(), work).splitlines())
    for line in own.splitlines():
        if not line.startswith(("APT::Update", "DPkg", "Acquire::IndexTargets", "Binary", "CommandLine")):
            assert line in left


@pytest.mark.usefixtures("split")
async def test_a_work_directory_that_cannot_be_made(apt_host: AptHost, directory: Path) -> None:
    (directory / "file").touch()
    with pytest.raises(KheadersError, match="Not a directory"):
        await find(apt_host, directory / "file" / "work")


async def test_a_host_without_apt(directory: Path) -> None:
    (directory / "fedora").mkdir()
    source = PackageSource(Host(directory / "fedora"), directory / "work")
    with pytest.raises(NotFound) as caught:
        await source.offered(RELEASE)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert not (directory / "work").exists()


@needs_root("all tests run unprivileged already")
def test_an_unprivileged_daemon(repository: Repository, apt_host: AptHost, work: Path) -> None:
    repository.add_split(RELEASE, "6.1.192-2")
    repository.publish()
    before = apt_host.state()
    work.parent.mkdir()
    os.chown(work.parent, UNPRIVILEGED, UNPRIVILEGED)
    layers: list[Layer] = []

    async def job() -> None:
        # From the own lists, and then from the host's.
        layers.extend((await find(apt_host, work)).layers)
        assert len(layers) == 2

    assert as_nobody(job()) == 0
    assert apt_host.state() == before
    apt_host.update()
    repository.server.requests.clear()
    before = apt_host.state()
    assert as_nobody(job()) == 0
    assert all(request.endswith(".deb") for request in repository.server.requests)
    assert apt_host.state() == before
    assert {path.stat().st_uid for path in work.rglob("*")} == {UNPRIVILEGED}
