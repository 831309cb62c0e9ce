"""Trees in place, copied: what is followed, what is noticed, and that an entry is what its name says."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from kheadersd.errors import Corrupt
from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sources import tree_copy as snapshot
from kheadersd.sources.installed_tree import NOT_IDENTIFIED, TreeSource
from kheadersd.sources.source import Archive, Limits, Tree
from kheadersd.system.tasks import Cancelled
from tests.support.archives import kheaders_files
from tests.support.extracting import LIMITS, put
from tests.support.hosts import RELEASE, make_host, put_tree


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path)


@pytest.fixture
def tree(host: Host) -> Path:
    return put_tree(host.path("home/somebody/linux"))


def copied(host: Host, tree: Path, limits: Limits = LIMITS) -> Archive:
    return snapshot.snapshot(host, RELEASE, Tree(tree, tree), limits, threading.Event())


def stamp(host: Host, tree: Path) -> str:
    return snapshot.identity(host, RELEASE, str(tree), LIMITS, threading.Event())


def refusal(host: Host, tree: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(Corrupt) as caught:
        copied(host, tree, limits=limits)
    return caught.value.message


def test_what_is_copied(host: Host, tree: Path, tmp_path: Path) -> None:
    long = "include/" + "/".join(["a-rather-long-name"] * 8) + "/x.h"
    (tree / long).parent.mkdir(parents=True)
    (tree / long).write_bytes(b"x" * 300_001)
    # Its end is where a piece ends, and needs padding.
    (tree / "include/y.h").write_bytes(b"y" * 131_071)
    (tree / "vmlinux").write_text("not a header")
    archive = copied(host, tree)
    target = put(archive, tmp_path / "entry")
    for name, content in kheaders_files(RELEASE).items():
        if name.startswith("include/"):
            assert (target / name).read_bytes() == content
    assert (target / long).read_bytes() == b"x" * 300_001
    assert (target / "include/y.h").read_bytes() == b"y" * 131_071
    assert not (target / "vmlinux").exists()
    assert archive.origin_stamp == stamp(host, tree)
    assert archive.digest == copied(host, tree).digest
    lines = [hashlib.sha256(b"".join(layer.chunks())).hexdigest() + "\n" for layer in archive.layers]
    assert archive.digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_every_change_is_noticed(host: Host, tree: Path) -> None:
    header = tree / "include/linux/deep/sched.h"
    header.parent.mkdir()
    header.write_text("struct a { int b; };")
    stamps = [stamp(host, tree)]
    assert stamp(host, tree) == stamps[0] != ""
    time.sleep(0.02)  # the clock of the file system is coarse
    header.write_text("struct a { int c; };")
    stamps.append(stamp(host, tree))
    header.with_name("new.h").write_text("")
    stamps.append(stamp(host, tree))
    header.unlink()
    stamps.append(stamp(host, tree))
    assert len(set(stamps)) == 4
    (tree / "include/linux/kconfig.h").unlink()
    assert stamp(host, tree) == ""


def test_what_was_found_is_remembered_for_a_while(host: Host, tree: Path) -> None:
    source = TreeSource(host)
    assert source.stamp(str(tree)) == NOT_IDENTIFIED
    source.remember(str(tree), "it")
    assert source.stamp(str(tree)) == "it"
    time.sleep(2.1)
    assert source.stamp(str(tree)) == NOT_IDENTIFIED
    source.remember(str(tree), "it")
    (tree / "include/linux/kconfig.h").unlink()
    assert source.stamp(str(tree)) == ""


def test_an_edit_between_the_two_readings(host: Host, tree: Path, tmp_path: Path) -> None:
    archive = copied(host, tree)
    header = tree / "include/linux/types.h"
    header.write_bytes(header.read_bytes().swapcase())
    with pytest.raises(Corrupt, match="was changed while it was read; ask again"):
        put(archive, tmp_path / "entry")


@pytest.mark.parametrize("absolute", [True, False])
def test_links_out_of_the_trees(host: Host, tree: Path, absolute: bool) -> None:
    secret = host.path("etc/shadow")
    secret.parent.mkdir()
    secret.write_text("root's")
    link = tree / "include/linux/evil.h"
    link.symlink_to("/etc/shadow" if absolute else "../../../../../etc/shadow")
    assert f"{link} leads to {secret}, where no headers" in refusal(host, tree)
    with pytest.raises(Corrupt):
        stamp(host, tree)


def test_a_link_out_of_an_image_leads_nowhere(host: Host, tree: Path, tmp_path: Path) -> None:
    """To this machine's /etc it would lead if it were followed as it is."""
    (tree / "include/linux/evil.h").symlink_to("/etc/passwd")
    assert not (put(copied(host, tree), tmp_path / "entry") / "include/linux/evil.h").exists()


def test_links_to_directories(host: Host, tree: Path) -> None:
    host.path("usr/lib").mkdir(parents=True)
    link = tree / "include/usr"
    link.symlink_to("/usr")
    assert f"{link} leads to {host.path('usr')}" in refusal(host, tree)
    link.unlink()
    link.symlink_to("linux/..")
    assert f"{link} cannot be copied: it leads in circles" in refusal(host, tree)


def test_links_of_distributions(host: Host, tmp_path: Path) -> None:
    """Ubuntu's lead from one package to another, inside /usr/src."""
    common = put_tree(host.path("usr/src/linux-headers"), parts="source")
    build = put_tree(host.path("usr/src/linux-headers-generic"), parts="build")
    (build / "include/linux").symlink_to("../../linux-headers/include/linux")
    (build / "include/linux-again").symlink_to("/usr/src/linux-headers/include/linux")
    target = put(copied(host, build), tmp_path / "entry")
    for name in ("linux", "linux-again"):
        found = target / "include" / name / "types.h"
        assert found.read_bytes() == (common / "include/linux/types.h").read_bytes()


def test_what_is_not_for_everybody(host: Host, tree: Path) -> None:
    key = host.path("usr/src/linux/certs/signing_key.pem")
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    key.chmod(0o600)
    link = tree / "include/linux/evil.h"
    link.symlink_to("/usr/src/linux/certs/signing_key.pem")
    assert "not every user can" in refusal(host, tree)
    link.unlink()
    link.symlink_to("/usr/src/linux/certs")
    assert f"{key} is not copied" in refusal(host, tree)


def test_a_directory_that_is_replaced_by_a_link(host: Host, tree: Path, tmp_path: Path) -> None:
    """Between being found and being read: what is really opened counts."""
    host.path("etc/linux").mkdir(parents=True)
    host.path("etc/linux/kconfig.h").write_text("secret")
    archive = copied(host, tree)
    pieces = archive.layers[0].chunks()
    (tree / "include").rename(tree / "was")
    (tree / "include").symlink_to(host.path("etc"))
    with pytest.raises(Corrupt):
        b"".join(pieces)
    with pytest.raises(Corrupt), snapshot._opened(str(tree / "include/linux/kconfig.h")):
        pass


def test_bounds(host: Host, tree: Path) -> None:
    assert "more than 5 files, the limit" in refusal(host, tree, Limits(max_files=5))
    # Names that are not copied take memory, too.
    for number in range(101):
        (tree / f"include/linux/.{number}").touch()
    assert "more than 100 files, the limit" in refusal(host, tree, Limits(max_files=100))
    with open(tree / "include/linux/large.h", "wb") as file:
        file.truncate(1 << 40)
    assert "more than 1000000 bytes, the limit" in refusal(host, tree, Limits(max_bytes=1_000_000))
    (tree / "include/linux/large.h").unlink()
    os.mkfifo(tree / "include/linux/fifo.h")
    assert "neither a file nor a directory" in refusal(host, tree)
    (tree / "include/linux/fifo.h").unlink()
    (tree / "include/linux" / "/".join("d" * 40)).mkdir(parents=True)
    assert "directories deep, the limit" in refusal(host, tree)


def test_it_can_be_given_up(host: Host, tree: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        snapshot.snapshot(host, RELEASE, Tree(tree, tree), LIMITS, cancelled)


def test_a_path_that_would_be_taken_for_two(host: Host) -> None:
    tree = put_tree(host.path("home/this and /that"))
    assert "rename it" in refusal(host, tree)


def test_a_release_with_the_word_between_two_trees(host: Host) -> None:
    release = Release("6.1 and 6.2")
    tree = put_tree(host.modules_directory(release) / "build", release)
    name = snapshot.origin(Tree(tree, tree))
    assert not snapshot.is_gone(name)
    assert snapshot.is_gone(snapshot.origin(Tree(tree, host.root)))
    assert copied(host, tree).origin == name


def test_both_halves_of_a_split_tree_have_what_was_generated(host: Host, tmp_path: Path) -> None:
    # openSUSE's, after "make prepare" in the sources.
    source = put_tree(host.path("usr/src/linux-6.1"), "another")
    build = put_tree(host.path("usr/src/linux-6.1-obj/x86_64/default"))
    (source / "include/generated/only-there.h").write_text("left over")
    (source / "include/generated/private.h").touch(0o600)
    (source / "include/linux/types.h").write_text("of the sources")
    (build / "include/linux/more.h").write_text("of the build")
    archive = snapshot.snapshot(host, RELEASE, Tree(source, build), LIMITS, threading.Event())
    target = put(archive, tmp_path / "entry")
    assert RELEASE in (target / "include/generated/utsrelease.h").read_text()
    assert not (target / "include/generated/only-there.h").exists()
    assert (target / "include/linux/types.h").read_text() == "of the sources"
    assert (target / "include/linux/more.h").read_text() == "of the build"


def test_a_build_tree_with_links_to_its_sources(host: Host, tmp_path: Path) -> None:
    # NixOS's.
    source = put_tree(host.path("nix/store/dev/source"), parts="source")
    build = put_tree(host.path("nix/store/dev/build"), parts="build")
    (build / "include/linux").symlink_to("/nix/store/dev/source/include/linux")
    archive = snapshot.snapshot(host, RELEASE, Tree(source, build), LIMITS, threading.Event())
    assert (put(archive, tmp_path / "entry") / "include/linux/types.h").is_file()


def test_what_an_editor_leaves_beside_a_header(host: Host, tree: Path, tmp_path: Path) -> None:
    for name in (".sched.h.swp", "#sched.h#", "sched.h~"):
        (tree / "include/linux" / name).touch(0o600)
    (tree / "include/linux/.#sched.h").symlink_to("u@host.1234:1700000000")
    (tree / "include/.git").mkdir(0o700)
    os.mkfifo(tree / "include/linux/.fifo")
    names = os.listdir(put(copied(host, tree), tmp_path / "entry") / "include/linux")
    assert sorted(names) == ["kconfig.h", "types.h"]
    (tree / "include/linux/sched.h").touch(0o600)
    assert "include/linux/sched.h is not copied" in refusal(host, tree)


def test_only_the_kernels_own_architecture_is_copied(host: Host, tree: Path, tmp_path: Path) -> None:
    for name in ("alpha", "arm64"):
        left_over = tree / "arch" / name / "include/generated/asm/types.h"
        left_over.parent.mkdir(parents=True)
        left_over.touch(0o600)
    assert os.listdir(put(copied(host, tree), tmp_path / "entry") / "arch") == ["x86"]
