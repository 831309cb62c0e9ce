"""Trees in /lib/modules, served in place."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from kheadersd.release import Release
from kheadersd.sources.installed_tree import TreeSource
from kheadersd.sources.source import NotFound, Reason, Tree
from tests.support.hosts import OTHER, RELEASE, ignore, make_host, put_tree

if TYPE_CHECKING:
    from pathlib import Path

    from kheadersd.host.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def link(host: Host, name: str, target: str) -> Path:
    path = host.modules_directory(RELEASE) / name
    path.symlink_to(target)
    return path


def seen(source: TreeSource, release: Release) -> tuple[bool, Tree | None]:
    """Whether the last look still holds, and the tree that it saw."""
    look = source.last_look(release)
    return look is not None, look.tree if look is not None else None


async def reason(host: Host) -> NotFound:
    with pytest.raises(NotFound) as caught:
        await TreeSource(host).find(RELEASE, ignore)
    return caught.value


async def test_a_whole_tree_by_its_real_path(host: Host) -> None:
    tree = put_tree(host.path("usr/src/linux-headers"))
    link(host, "build", "/usr/src/linux-headers")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_a_split_tree(host: Host) -> None:
    source = put_tree(host.path("usr/src/common"), parts="source")
    build = put_tree(host.path("usr/src/flavour"), parts="build")
    link(host, "build", "/usr/src/flavour")
    link(host, "source", "../../../usr/src/common")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(source_tree=source, build_tree=build)


async def test_a_directory_instead_of_a_link(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_source_that_leads_to_build(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    link(host, "source", "build")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_only_source_but_whole(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "source")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_a_whole_build_beside_a_useless_source(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    (host.modules_directory(RELEASE) / "source").mkdir()
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_a_whole_build_beside_a_dangling_source(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    link(host, "source", "/usr/src/gone")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_nothing(host: Host) -> None:
    not_found = await reason(host)
    assert not_found.reason is Reason.MISSING
    assert f"{RELEASE}/build" in not_found.message


async def test_no_modules_directory(host: Host) -> None:
    with pytest.raises(NotFound) as caught:
        await TreeSource(host).find(OTHER, ignore)
    assert caught.value.reason is Reason.MISSING


async def test_a_dangling_link(host: Host) -> None:
    path = link(host, "build", "/usr/src/gone")
    not_found = await reason(host)
    assert not_found.reason is Reason.DANGLING
    assert str(path) in not_found.message
    assert "/usr/src/gone" in not_found.message


async def test_a_link_in_circles(host: Host) -> None:
    link(host, "build", "source")
    link(host, "source", "build")
    assert (await reason(host)).reason is Reason.DANGLING


async def test_a_left_over_directory(host: Host) -> None:
    build = host.modules_directory(RELEASE) / "build"
    (build / "include/generated").mkdir(parents=True)
    not_found = await reason(host)
    assert not_found.reason is Reason.INCOMPLETE
    assert f"{build}/include/linux/kconfig.h" in not_found.message


async def test_only_the_build_part_of_a_split_tree(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "build", parts="build")
    assert (await reason(host)).reason is Reason.INCOMPLETE


async def test_only_the_source_part_of_a_split_tree(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "source", parts="source")
    assert (await reason(host)).reason is Reason.INCOMPLETE


async def test_the_build_part_beside_a_dangling_source(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "build", parts="build")
    path = link(host, "source", "/usr/src/gone")
    not_found = await reason(host)
    assert not_found.reason is Reason.DANGLING
    assert str(path) in not_found.message


async def test_another_kernels_tree(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "build", OTHER)
    not_found = await reason(host)
    assert not_found.reason is Reason.OTHER_RELEASE
    assert OTHER in not_found.message


async def test_our_own_automount_is_not_touched(host: Host) -> None:
    # Were it followed, this usable tree would be found.
    put_tree(host.path("run/kheaders/build"))
    link(host, "build", "/run/kheaders/build")
    not_found = await reason(host)
    assert not_found.reason is Reason.MISSING
    assert "kheadersd itself" in not_found.message


async def test_what_is_behind_our_own_automount_is_no_part_of_the_answer(host: Host) -> None:
    """A stat(2) of it would wait for the mount, which waits for the daemon."""
    automount = host.path("run/kheaders/build")
    automount.mkdir(parents=True)
    link(host, "build", "../../../run/kheaders/build")
    source = TreeSource(host)
    with pytest.raises(NotFound):
        await source.find(RELEASE, ignore)
    os.utime(automount, (1, 1))
    assert seen(source, RELEASE) == (True, None)


async def test_objects_beside_a_link_to_their_sources(host: Host) -> None:
    # "make O=", whose modules_install makes no link of its own since Linux 6.6.
    source = put_tree(host.path("home/u/linux"), parts="source")
    build = put_tree(host.path("home/u/objects"), parts="build")
    (build / "source").symlink_to("../linux")
    link(host, "build", "/home/u/objects")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(source_tree=source, build_tree=build)


async def test_objects_whose_makefile_says_where_their_sources_are(host: Host) -> None:
    source = put_tree(host.path("usr/src/linux-headers-6.1-common"), parts="source")
    build = put_tree(host.path(f"usr/src/linux-headers-{RELEASE}"), parts="build")
    (build / "Makefile").write_text("include /usr/src/linux-headers-6.1-common/Makefile\n")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(source_tree=source, build_tree=build)


async def test_objects_whose_sources_were_removed(host: Host) -> None:
    build = put_tree(host.modules_directory(RELEASE) / "build", parts="build")
    (build / "source").symlink_to("/home/u/gone")
    not_found = await reason(host)
    assert f"{build}/source leads to /home/u/gone" in not_found.message


@pytest.mark.parametrize("where", ["linux-headers-{}", "kernels/{}", "linux-{}"])
@pytest.mark.parametrize("beside", ["nothing", "no modules", "a dangling link", "another kernel's"])
async def test_headers_without_a_link(host: Host, where: str, beside: str) -> None:
    tree = put_tree(host.path("usr/src") / where.format(RELEASE))
    if beside == "no modules":
        shutil.rmtree(host.path("lib"))
    elif beside == "a dangling link":
        link(host, "build", "/usr/src/gone")
    elif beside == "another kernel's":
        put_tree(host.modules_directory(RELEASE) / "build", OTHER)
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_headers_without_a_link_are_checked_as_well(host: Host) -> None:
    tree = put_tree(host.path("usr/src/kernels") / RELEASE, OTHER)
    not_found = await reason(host)
    assert not_found.reason is Reason.OTHER_RELEASE
    assert str(tree) in not_found.message


async def test_the_automount_under_another_name_is_not_touched(host: Host) -> None:
    put_tree(host.path("run/kheaders/build"))
    build = put_tree(host.modules_directory(RELEASE) / "build", parts="build")
    (build / "source").symlink_to("/run/kheaders/build")
    host.path("usr/src").mkdir(parents=True)
    host.path(f"usr/src/linux-headers-{RELEASE}").symlink_to("/run/kheaders/build")
    assert (await reason(host)).reason is Reason.INCOMPLETE


@pytest.mark.parametrize("target", ["/nix/store/abc/{}", "../../nix/store/abc/{}"])
async def test_a_directory_of_modules_that_is_a_link(host: Host, target: str) -> None:
    store = host.path("nix/store/abc") / RELEASE
    tree = put_tree(store / "build")
    host.modules_directory(RELEASE).rmdir()
    host.path("lib/modules", RELEASE).symlink_to(target.format(RELEASE))
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)
    assert RELEASE not in host.installed_releases()
    (store / "kernel").mkdir()
    assert RELEASE in host.installed_releases()


@pytest.mark.parametrize(
    "modules",
    ["usr/lib/modules", *(f"run/booted-system/{name}/lib/modules" for name in ("kernel-modules", "kernel"))],
)
async def test_modules_elsewhere(host: Host, modules: str) -> None:
    host.modules_directory(RELEASE).rmdir()
    tree = put_tree(host.path("nix/store/abc-dev/build"))
    directory = host.path(modules, RELEASE)
    directory.mkdir(parents=True)
    (directory / "build").symlink_to("/nix/store/abc-dev/build")
    (directory / "modules.dep").touch()
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)
    assert host.installed_releases() == {RELEASE}


async def test_several_directories_of_modules(host: Host) -> None:
    """On NixOS, where an administrator made /lib/modules/<release> for another tool."""
    tree = put_tree(host.path("nix/store/abc-dev/build"))
    booted = host.path("run/booted-system/kernel-modules/lib/modules", RELEASE)
    (booted / "kernel").mkdir(parents=True)
    link(host, "build", "/nix/store/gone/build")
    source = TreeSource(host)
    with pytest.raises(NotFound):
        await source.find(RELEASE, ignore)
    (booted / "build").symlink_to("/nix/store/abc-dev/build")
    assert await source.find(RELEASE, ignore) == Tree(tree, tree)
    assert host.installed_releases() == {RELEASE}


@pytest.mark.parametrize("settled", [True, False], ids=["long after", "at once"])
@pytest.mark.parametrize(
    "place",
    [
        f"lib/modules/{RELEASE}/build",
        f"usr/lib/modules/{RELEASE}/build",
        f"run/booted-system/kernel-modules/lib/modules/{RELEASE}/build",
        f"run/current-system/kernel/lib/modules/{RELEASE}/build",
        f"usr/src/linux-headers-{RELEASE}",
        f"usr/src/kernels/{RELEASE}",
        f"usr/src/linux-{RELEASE}",
    ],
)
async def test_a_tree_that_comes_later_is_noticed(host: Host, place: str, *, settled: bool) -> None:
    host.path("usr/src").mkdir(parents=True, exist_ok=True)
    if settled:
        await asyncio.sleep(0.11)
    source = TreeSource(host)
    with pytest.raises(NotFound):
        await source.find(RELEASE, ignore)
    assert seen(source, RELEASE) == (True, None)
    tree = put_tree(host.path(place))
    assert seen(source, RELEASE) == (False, None)
    assert await source.find(RELEASE, ignore) == Tree(tree, tree)


async def test_a_look_at_nothing_is_short(host: Host) -> None:
    """Each call for a release takes it: /run, /usr and the directory of modules stand for ten places."""
    await asyncio.sleep(0.11)
    source = TreeSource(host)
    with pytest.raises(NotFound):
        await source.find(RELEASE, ignore)
    look = source.last_look(RELEASE)
    assert look is not None
    assert len(look.links) + len(look.files) <= 4, look


def test_one_directory_under_two_names_is_one(host: Host) -> None:
    shutil.rmtree(host.path("lib"))
    host.path("usr/lib/modules", RELEASE).mkdir(parents=True)
    host.path("lib").symlink_to("usr/lib")
    assert host.modules_directories(RELEASE) == [host.path("usr/lib/modules", RELEASE)]
    assert len(host.modules_directories(OTHER)) == 0


async def test_nixpkgs_kernel_dev(host: Host) -> None:
    """The sources are beside the build tree, and /usr/src leads there."""
    dev = host.path("nix/store/abc-linux-dev/lib/modules", RELEASE)
    source = put_tree(dev / "source", parts="source")
    build = put_tree(dev / "build", parts="build")
    host.path("usr/src").mkdir(parents=True)
    host.path(f"usr/src/linux-headers-{RELEASE}").symlink_to(
        f"/nix/store/abc-linux-dev/lib/modules/{RELEASE}/build"
    )
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(source_tree=source, build_tree=build)


async def test_a_path_that_no_caller_could_be_told(host: Host) -> None:
    tree = put_tree(host.path(os.fsdecode(b"usr/src/caf\xe9\n")))
    (host.modules_directory(RELEASE) / "build").symlink_to(b"/usr/src/caf\xe9\n")
    not_found = await reason(host)
    assert not_found.reason is Reason.UNREADABLE
    assert "caf\\xe9\\n" in not_found.message
    not_found.message.encode()
    shutil.rmtree(tree)
    assert "caf\\xe9\\n, which is not there" in (await reason(host)).message


@pytest.mark.parametrize("name", ["include/linux/new.h", "include/linux", "arch/x86/include/asm/ptrace.h"])
@pytest.mark.parametrize("absolute", [True, False])
async def test_a_header_of_an_image_that_leads_out_of_it(
    host: Host, tmp_path_factory: pytest.TempPathFactory, name: str, absolute: bool
) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    outside = tmp_path_factory.mktemp("outside")
    for header in ("kconfig.h", "types.h", "ptrace.h", "new.h"):
        (outside / header).write_text("#define SECRET\n")
    target = outside if name == "include/linux" else outside / name.rpartition("/")[2]
    path = tree / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    up = "../" * len(path.parent.parts[1:])
    path.symlink_to(target if absolute else up + str(target)[1:])
    not_found = await reason(host)
    assert not_found.reason is Reason.UNREADABLE
    assert str(path) in not_found.message
    assert "leads out of" in not_found.message


async def test_a_header_that_leads_out_of_an_image_later(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    source = TreeSource(host)
    assert await source.find(RELEASE, ignore) == Tree(tree, tree)
    (tree / "include/linux/new.h").symlink_to("/etc/passwd")
    assert seen(source, RELEASE) == (False, None)
    with pytest.raises(NotFound, match="leads out of"):
        await source.find(RELEASE, ignore)


async def test_links_that_stay_in_the_image_are_followed(host: Host) -> None:
    # Ubuntu's packages consist of them.
    common = put_tree(host.path("usr/src/common"), parts="source")
    tree = put_tree(host.path("usr/src/own"), parts="build")
    (tree / "include/linux").symlink_to("../../common/include/linux")
    (tree / "arch/x86/include/asm").symlink_to("../../../../common/arch/x86/include/asm")
    (common / "include/linux/gone.h").symlink_to("/no/such/header.h")
    link(host, "build", "/usr/src/own")
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_an_editor_at_work(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    (tree / "include/linux/.#sched.h").symlink_to("u@host.1234:1700000000")
    (tree / "include/linux/.sched.h.swp").touch(0o600)
    assert await TreeSource(host).find(RELEASE, ignore) == Tree(tree, tree)


async def test_present_knows_what_find_found(host: Host) -> None:
    put_tree(host.path("usr/src/linux-headers"))
    link(host, "build", "/usr/src/linux-headers")
    source = TreeSource(host)
    assert seen(source, RELEASE) == (False, None)
    tree = await source.find(RELEASE, ignore)
    assert seen(source, RELEASE) == (True, tree)


@pytest.mark.parametrize(
    "change",
    ["edited", "removed", "link moved", "source appears", "updated", "configured", "no asm", "no wrappers"],
)
async def test_present_notices(host: Host, change: str) -> None:
    tree = put_tree(host.path("usr/src/linux-headers"))
    path = link(host, "build", "/usr/src/linux-headers")
    source = TreeSource(host)
    await source.find(RELEASE, ignore)
    if change == "edited":
        (tree / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{OTHER}"\n')
    elif change == "removed":
        shutil.rmtree(tree)
    elif change == "updated":
        (tree / "Makefile").write_text("VERSION = 6\nPATCHLEVEL = 2\n")
    elif change == "configured":
        (tree / "include/generated/autoconf.h").write_text("/* nothing */\n")
    elif change == "no asm":
        (tree / "arch/x86/include/asm/ptrace.h").unlink()
    elif change == "no wrappers":
        (tree / "arch/x86/include/generated/uapi/asm/types.h").unlink()
    elif change == "link moved":
        path.unlink()
        path.symlink_to("/usr/src/other")
    else:
        link(host, "source", "/usr/src/other")
    assert seen(source, RELEASE) == (False, None)


async def test_present_knows_that_there_is_nothing_until_there_is(host: Host) -> None:
    source = TreeSource(host)
    for _ in range(2):
        with pytest.raises(NotFound):
            await source.find(RELEASE, ignore)
        assert seen(source, RELEASE) == (True, None)
    link(host, "build", "/usr/src/later")
    assert seen(source, RELEASE) == (False, None)
    with pytest.raises(NotFound):
        await source.find(RELEASE, ignore)
    tree = put_tree(host.path("usr/src/later"))
    assert seen(source, RELEASE) == (False, None)
    assert await source.find(RELEASE, ignore) == Tree(tree, tree)


async def test_present_notices_that_a_left_over_is_completed(host: Host) -> None:
    build = host.modules_directory(RELEASE) / "build"
    build.mkdir()
    source = TreeSource(host)
    with pytest.raises(NotFound):
        await source.find(RELEASE, ignore)
    assert seen(source, RELEASE) == (True, None)
    put_tree(build)
    assert seen(source, RELEASE) == (False, None)


async def test_asking_for_many_releases_does_not_fill_the_memory(host: Host) -> None:
    source = TreeSource(host)
    for number in range(200):
        with pytest.raises(NotFound):
            await source.find(Release(f"6.1.{number}"), ignore)
    assert source.last_look(Release("6.1.0")) is None
    assert seen(source, Release("6.1.199")) == (True, None)


async def test_present_does_not_open_or_list_anything(host: Host) -> None:
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    source = TreeSource(host)
    await source.find(RELEASE, ignore)
    os.chmod(tree / "include/generated/utsrelease.h", 0)
    best = min(timed(source) for _ in range(200))
    # A few microseconds on a quiet machine; this only catches reading files on every call.
    assert best < 200e-6


def timed(source: TreeSource) -> float:
    start = time.perf_counter()
    source.last_look(RELEASE)
    return time.perf_counter() - start
