"""Trees in /lib/modules, served in place."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from kheadersd.release import Release
from kheadersd.sources import Nothing, Tree, Why
from kheadersd.sources.tree import TreeSource
from sources.hosts import OTHER, RELEASE, ignore, make_host, put_tree

if TYPE_CHECKING:
    from pathlib import Path

    from kheadersd.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def link(host: Host, name: str, target: str) -> Path:
    path = host.modules_directory(RELEASE) / name
    path.symlink_to(target)
    return path


async def reason(host: Host) -> Nothing:
    with pytest.raises(Nothing) as caught:
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
    nothing = await reason(host)
    assert nothing.why is Why.MISSING
    assert f"{RELEASE}/build" in nothing.message


async def test_no_modules_directory(host: Host) -> None:
    with pytest.raises(Nothing) as caught:
        await TreeSource(host).find(OTHER, ignore)
    assert caught.value.why is Why.MISSING


async def test_a_dangling_link(host: Host) -> None:
    path = link(host, "build", "/usr/src/gone")
    nothing = await reason(host)
    assert nothing.why is Why.DANGLING
    assert str(path) in nothing.message
    assert "/usr/src/gone" in nothing.message


async def test_a_link_in_circles(host: Host) -> None:
    link(host, "build", "source")
    link(host, "source", "build")
    assert (await reason(host)).why is Why.DANGLING


async def test_a_left_over_directory(host: Host) -> None:
    build = host.modules_directory(RELEASE) / "build"
    (build / "include/generated").mkdir(parents=True)
    nothing = await reason(host)
    assert nothing.why is Why.INCOMPLETE
    assert f"{build}/include/linux/kconfig.h" in nothing.message


async def test_only_the_build_part_of_a_split_tree(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "build", parts="build")
    assert (await reason(host)).why is Why.INCOMPLETE


async def test_only_the_source_part_of_a_split_tree(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "source", parts="source")
    assert (await reason(host)).why is Why.INCOMPLETE


async def test_the_build_part_beside_a_dangling_source(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "build", parts="build")
    path = link(host, "source", "/usr/src/gone")
    nothing = await reason(host)
    assert nothing.why is Why.DANGLING
    assert str(path) in nothing.message


async def test_another_kernels_tree(host: Host) -> None:
    put_tree(host.modules_directory(RELEASE) / "build", OTHER)
    nothing = await reason(host)
    assert nothing.why is Why.OTHER_RELEASE
    assert OTHER in nothing.message


async def test_our_own_automount_is_not_touched(host: Host) -> None:
    # Were it followed, this usable tree would be found.
    put_tree(host.path("run/kheaders/build"))
    link(host, "build", "/run/kheaders/build")
    nothing = await reason(host)
    assert nothing.why is Why.MISSING
    assert "kheadersd itself" in nothing.message


async def test_present_knows_what_find_found(host: Host) -> None:
    put_tree(host.path("usr/src/linux-headers"))
    link(host, "build", "/usr/src/linux-headers")
    source = TreeSource(host)
    assert source.present(RELEASE) == (False, None)
    tree = await source.find(RELEASE, ignore)
    assert source.present(RELEASE) == (True, tree)


@pytest.mark.parametrize("change", ["edited", "removed", "link moved", "source appears"])
async def test_present_notices(host: Host, change: str) -> None:
    tree = put_tree(host.path("usr/src/linux-headers"))
    path = link(host, "build", "/usr/src/linux-headers")
    source = TreeSource(host)
    await source.find(RELEASE, ignore)
    if change == "edited":
        (tree / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{OTHER}"\n')
    elif change == "removed":
        shutil.rmtree(tree)
    elif change == "link moved":
        path.unlink()
        path.symlink_to("/usr/src/other")
    else:
        link(host, "source", "/usr/src/other")
    assert source.present(RELEASE) == (False, None)


async def test_present_knows_that_there_is_nothing_until_there_is(host: Host) -> None:
    source = TreeSource(host)
    for _ in range(2):
        with pytest.raises(Nothing):
            await source.find(RELEASE, ignore)
        assert source.present(RELEASE) == (True, None)
    link(host, "build", "/usr/src/later")
    assert source.present(RELEASE) == (False, None)
    with pytest.raises(Nothing):
        await source.find(RELEASE, ignore)
    tree = put_tree(host.path("usr/src/later"))
    assert source.present(RELEASE) == (False, None)
    assert await source.find(RELEASE, ignore) == Tree(tree, tree)


async def test_present_notices_that_a_left_over_is_completed(host: Host) -> None:
    build = host.modules_directory(RELEASE) / "build"
    build.mkdir()
    source = TreeSource(host)
    with pytest.raises(Nothing):
        await source.find(RELEASE, ignore)
    assert source.present(RELEASE) == (True, None)
    put_tree(build)
    assert source.present(RELEASE) == (False, None)


async def test_asking_for_many_releases_does_not_fill_the_memory(host: Host) -> None:
    source = TreeSource(host)
    for number in range(200):
        with pytest.raises(Nothing):
            await source.find(Release(f"6.1.{number}"), ignore)
    assert not source.present(Release("6.1.0"))[0]
    assert source.present(Release("6.1.199")) == (True, None)


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
    source.present(RELEASE)
    return time.perf_counter() - start
