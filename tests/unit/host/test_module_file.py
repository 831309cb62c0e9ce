"""Where the kheaders module of a kernel is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kheadersd.host import module_file
from kheadersd.host.module_file import locate
from tests.support.hosts import OTHER, RELEASE, make_host

if TYPE_CHECKING:
    from pathlib import Path

    from kheadersd.host.host import Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


def install(host: Host, name: str) -> Path:
    path = host.modules_directory(RELEASE) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_where_modules_dep_says(host: Host) -> None:
    path = install(host, "weak/place/kheaders.ko.xz")
    install(host, "another/kheaders.ko")
    listing = "kernel/fs/ext4.ko: kernel/fs/jbd2.ko\nweak/place/kheaders.ko.xz:\n"
    (host.modules_directory(RELEASE) / "modules.dep").write_text(listing)
    assert locate(host, RELEASE) == path


def test_where_modules_dep_does_not_say(host: Host) -> None:
    (host.modules_directory(RELEASE) / "modules.dep").write_text("kernel/kernel/kheaders.ko: \n")
    path = install(host, "updates/dkms/kheaders.ko.zst")
    install(host, "updates/dkms/xkheaders.ko")
    assert locate(host, RELEASE) == path


def test_the_standard_place_comes_first(host: Host) -> None:
    install(host, "extra/kheaders.ko")
    path = install(host, "kernel/kernel/kheaders.ko.gz")
    assert locate(host, RELEASE) == path


def test_links_are_followed_within_the_host(host: Host, tmp_path: Path) -> None:
    stored = tmp_path / "store/kheaders.ko"
    stored.parent.mkdir()
    stored.touch()
    link = host.modules_directory(RELEASE) / "kernel/kernel/kheaders.ko"
    link.parent.mkdir(parents=True)
    link.symlink_to("/store/kheaders.ko")
    assert locate(host, RELEASE) == stored


def test_a_build_tree_is_not_searched(host: Host) -> None:
    install(host, "build/kernel/kheaders.ko")
    assert locate(host, RELEASE) is None


def test_directories_that_link_to_each_other(host: Host) -> None:
    directory = host.modules_directory(RELEASE)
    (directory / "extra").mkdir()
    (directory / "extra/loop").symlink_to("..")
    (directory / "extra/kheaders.ko").symlink_to("kheaders.ko")
    assert locate(host, RELEASE) is None


def test_a_module_without_depmod_is_found_anywhere_below(host: Host) -> None:
    assert locate(host, RELEASE) is None
    path = install(host, "updates/deep/er/kheaders.ko.xz")
    install(host, "updates/kheaders.ko.lz4")  # kmod does not read it
    assert locate(host, RELEASE) == path
    assert locate(host, OTHER) is None


def test_a_stale_modules_dep_does_not_hide_the_module(host: Host) -> None:
    (host.modules_directory(RELEASE) / "modules.dep").write_text("weak/kheaders.ko: \n\xff:\n")
    path = install(host, "extra/kheaders.ko")
    assert locate(host, RELEASE) == path


def test_the_search_is_bounded(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = install(host, "extra/deep/kheaders.ko")
    monkeypatch.setattr(module_file, "_MAX_DIRECTORIES", 3)  # its directory is the third
    assert locate(host, RELEASE) == path
    monkeypatch.setattr(module_file, "_MAX_DIRECTORIES", 2)
    assert locate(host, RELEASE) is None
