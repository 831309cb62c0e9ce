"""What a good archive becomes, and that nothing is left of a stopped extraction."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

from kheadersd.cache.manifest import compare
from kheadersd.system.tasks import Cancelled
from tests.support.archives import (
    DIRECTORY,
    SYMLINK,
    kheaders_files,
    make_kheaders,
    make_tar,
    member,
    tree_tar,
)
from tests.support.extracting import contents, extract_to, layer, nothing_left
from tests.support.running import REPOSITORY
from tests.support.threads import at_work

RELEASE = "6.1.0-13-amd64"
BIG = random.Random(2).randbytes(1_500_000)


@pytest.fixture(autouse=True)
def _nothing_left() -> object:
    with nothing_left():
        yield


def test_a_kheaders_archive(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    stages: list[tuple[str, float]] = []
    extracted = extract_to(
        tree,
        make_kheaders(
            RELEASE,
            {"include/big.h": BIG, "include/empty.h": b""},
            {"include/asm": "../arch/x86/include/asm"},
        ),
        report=lambda stage, fraction: stages.append((stage, fraction)),
    )
    found = contents(tree)
    files = kheaders_files(RELEASE) | {"include/big.h": BIG, "include/empty.h": b""}
    assert {name: data for name, (kind, _, data) in found.items() if kind == "file"} == files
    assert {mode for kind, mode, _ in found.values() if kind == "file"} == {0o444}
    assert {mode for kind, mode, _ in found.values() if kind == "directory"} == {0o755}
    assert (tree / "include/asm/ptrace.h").is_file()
    assert extracted.files == len(files)
    assert compare(tree, extracted.manifest) == []
    entry = extracted.manifest.entries["include/big.h"]
    assert (entry.size, entry.content) == (len(BIG), hashlib.sha256(BIG).hexdigest())
    assert stages == sorted(stages)
    assert stages[-1] == ("extract", 1.0)


def test_bytes_is_the_space_on_disk(tmp_path: Path) -> None:
    extracted = extract_to(tmp_path / "tree", tree_tar({"include/a.h": b"a", "include/b.h": bytes(4097)}))
    block = os.statvfs(tmp_path).f_frsize
    assert extracted.bytes == (1 + 1 + -(-4097 // block)) * block


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; os.umask(0o077)\n"
        "from tests.support.extracting import *; from tests.support.archives import *\n"
        f"extract_to(pathlib.Path({str(tmp_path / 'tree')!r}), make_kheaders({RELEASE!r}))"
    )
    run_python(program)
    found = contents(tmp_path / "tree")
    assert {(kind, mode) for kind, mode, _ in found.values()} == {("file", 0o444), ("directory", 0o755)}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_in_every_format(tmp_path: Path, form: int) -> None:
    deep = "/".join(["a_component_of_some_length"] * 5)
    members = [
        member(f"{deep}/header.h", b"content"),
        member(f"{deep}/link", kind=SYMLINK, target="header.h"),
    ]
    if form != tarfile.USTAR_FORMAT:
        longer = "/".join(["another_component_of_some_length"] * 12)
        members += [
            member(f"{longer}/header.h", b"content"),
            member("link", kind=SYMLINK, target=f"{longer}/header.h"),
            member("include/ünïcödé.h", b"content"),
        ]
    extract_to(tmp_path / "tree", make_tar(*members, form=form))
    files = [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]
    assert len(files) == len(members)
    assert all(path.read_bytes() == b"content" for path in files)


def test_missing_parents_are_made_and_may_follow(tmp_path: Path) -> None:
    tar = make_tar(
        member("include/linux/a.h", b"a"), member("./include/", kind=DIRECTORY), member("include/b.h")
    )
    extracted = extract_to(tmp_path / "tree", tar)
    assert list(extracted.manifest.entries) == [
        "include",
        "include/linux",
        "include/linux/a.h",
        "include/b.h",
    ]


def test_layers_are_merged_where_they_want_to_be(tmp_path: Path) -> None:
    def place(name: str) -> str | None:
        return name.removeprefix("usr/src/headers/") if name.startswith("usr/src/headers/") else None

    first = make_tar(
        member("usr/src/headers/include/", kind=DIRECTORY),
        member("usr/src/headers/include/a.h", b"a"),
        member("usr/share/doc/copyright", kind=SYMLINK, target="/etc/passwd"),
    )
    second = make_tar(member("include/", kind=DIRECTORY), member("include/b.h", b"b"))
    extracted = extract_to(tmp_path / "tree", layer(first, place), layer(second))
    assert list(extracted.manifest.entries) == ["include", "include/a.h", "include/b.h"]


def test_the_top_itself_may_be_placed_at_the_top(tmp_path: Path) -> None:
    tar = make_tar(member("usr/", kind=DIRECTORY), member("usr/a.h"))
    extracted = extract_to(tmp_path / "tree", layer(tar, lambda name: name.removeprefix("usr").lstrip("/")))
    assert list(extracted.manifest.entries) == ["a.h"]


@pytest.mark.parametrize(
    "links",
    [
        {"include/asm": "../arch/x86/include/asm"},
        {"asm": "./arch//x86/include/asm/"},
        {"asm": "arch/x86/include/asm", "header.h": "asm/ptrace.h"},
        {"a": "b", "b": "c", "c": "include/linux/types.h"},
        {"top": "include/.."},
        {"asm": "arch/x86/include/asm", "x86": "asm/../.."},
    ],
)
def test_links_that_resolve_inside(tmp_path: Path, links: dict[str, str]) -> None:
    extracted = extract_to(tmp_path / "tree", make_kheaders(RELEASE, links=links))
    for name, target in links.items():
        link = tmp_path / "tree" / name
        assert os.readlink(link) == target
        assert link.resolve(strict=True).is_relative_to(tmp_path / "tree")
    assert compare(tmp_path / "tree", extracted.manifest) == []


def real_tree_archive(tmp_path: Path) -> Path:
    """A realistic archive, made by GNU tar and xz: thousands of headers, with symlinks."""
    archive = tmp_path / "headers.tar.xz"
    tar = "tar --sort=name --owner=0 --group=0 --mode=u=rw,go=r,a+X -C /usr/include -cf -"
    command = f"{tar} linux asm-generic rdma scsi sound drm | xz -0 --block-size=1MiB > {archive}"
    subprocess.run(["sh", "-c", command], check=True)
    return archive


def test_the_same_as_gnu_tar(tmp_path: Path) -> None:
    archive = real_tree_archive(tmp_path)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "-xf", archive, "-C", theirs], check=True)
    extracted = extract_to(tmp_path / "ours", archive.read_bytes())
    ours = contents(tmp_path / "ours")
    expected = contents(theirs)
    assert {name: (kind, data) for name, (kind, _, data) in ours.items()} == {
        name: (kind, data) for name, (kind, _, data) in expected.items()
    }
    assert set(ours) == set(extracted.manifest.entries)


def run_python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def test_cancelled_in_advance(tmp_path: Path) -> None:
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        extract_to(tmp_path / "tree", make_kheaders(RELEASE), cancelled=cancelled)


def test_cancelled_at_any_moment_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    files = {f"include/{number}.h": bytes(5000) for number in range(600)} | {"include/big.h": BIG}
    archive = make_kheaders(RELEASE, files)
    generator = random.Random(4)
    stopped = 0
    for attempt in range(25):
        cancelled = threading.Event()
        timer = threading.Timer(generator.uniform(0, 0.1), cancelled.set)
        timer.start()
        try:
            extract_to(tmp_path / str(attempt), archive, cancelled=cancelled)
        except Cancelled:
            stopped += 1
        finally:
            timer.cancel()
            timer.join()
        assert not at_work()
    assert stopped
