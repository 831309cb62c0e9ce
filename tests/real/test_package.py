"""The Debian package and the source tarball, built from a copy of the tree."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import package
from tests.support.programs import run

pytestmark = pytest.mark.slow

_AUTHOR = ("-c", "user.name=a", "-c", "user.email=a@example.org")
_INSTALL = "meson setup --prefix=/usr -Dkernelhooks=true build >&2 && meson install -C build --destdir"


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_lintian_has_nothing_to_say() -> None:
    done = subprocess.run(
        [
            "lintian",
            "--allow-root",
            "--fail-on",
            "error,warning",
            "--tag-display-limit",
            "0",
            package.package(),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    # A package in no archive yet closes no bug.
    tags = [line for line in done.stdout.splitlines() if "initial-upload-closes-no-bugs" not in line]
    assert tags == []


def test_the_same_bytes_elsewhere_and_at_another_time(tmp_path: Path) -> None:
    tree = tmp_path / "another place" / "with another name"
    package.copy_tree(tree)
    for path in tree.rglob("*"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    package.build(tree, TZ="Pacific/Chatham", LC_ALL="C.UTF-8")
    (built,) = tree.parent.glob("*.deb")
    assert built.read_bytes() == package.package().read_bytes()


def test_the_source_tarball_builds_without_network(tmp_path: Path) -> None:
    """It is the commit's alone, and the same again."""
    tree = tmp_path / "checkout"
    package.copy_tree(tree)
    for words in (["init", "-q"], ["add", "."], [*_AUTHOR, "commit", "-qm", "all"]):
        run("git", *words, cwd=tree)
    (tree / "units/not-committed").touch()
    archive = Path(run(tree / "dev", "package", "--source").strip())
    first = archive.read_bytes()
    run(tree / "dev", "package", "--source")
    assert archive.read_bytes() == first

    run("tar", "-C", tmp_path, "-xf", archive)
    (source,) = tmp_path.glob("kheadersd-*")
    run("unshare", "--net", "sh", "-ec", f"{_INSTALL} {tmp_path}/root >&2", cwd=source)
    unpacked = tmp_path / "unpacked"
    run("dpkg-deb", "-x", package.package(), unpacked)
    # But for what Debian has elsewhere, compresses or adds.
    expected = {
        name.removesuffix(".gz") for name in _files(unpacked) if not name.startswith("usr/share/doc/")
    }
    assert _as_in_debian(_files(tmp_path / "root")) == expected


def _as_in_debian(names: set[str]) -> set[str]:
    purelib = re.compile(r".*-packages/")
    # Meson 1.2 and newer compile; Debian does when the package is installed.
    sources = {name for name in names if "/__pycache__/" not in name}
    renamed = {purelib.sub("usr/lib/python3/dist-packages/", name) for name in sources}
    return {name.replace("zsh/site-functions", "zsh/vendor-completions") for name in renamed}
