"""The distribution's own packages, from its own archive."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sources.package import PackageSource
from kheadersd.sources.usable import check_usable
from tests.support.extracting import extract_archive

META = "linux-headers-cloud-amd64"
LISTS = Path("/var/lib/apt/lists")


def newest_release() -> Release:
    """The release whose headers the distribution's meta-package stands for now."""
    if shutil.which("apt-cache") is None:
        pytest.skip("this is not Debian")
    command = ["apt-cache", "show", "--no-all-versions", META]
    output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    match = re.search(r"^Depends: linux-headers-(\S+)", output, re.MULTILINE)
    if match is None:
        pytest.skip(f"apt knows no {META}: run apt-get update, or this is another architecture")
    return Release(match[1])


def times_of_lists() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in LISTS.rglob("*")}


@pytest.mark.slow
async def test_the_distribution_s_headers(tmp_path: Path) -> None:
    release = newest_release()
    before = times_of_lists()
    source = PackageSource(Host(), tmp_path / "work")
    offered = await source.offered(release)
    assert offered is not None
    archive = await source.find(release, lambda _stage, _fraction: None)
    assert archive.origin.startswith(offered + ", ")
    tree = tmp_path / "tree"
    await asyncio.to_thread(extract_archive, tree, archive)
    check_usable(tree, tree, release)
    assert f'"{release}"' in (tree / "include/generated/utsrelease.h").read_text()
    for name in ("include/linux/kconfig.h", "include/linux/types.h", "include/generated/autoconf.h"):
        assert (tree / name).stat().st_size > 0
    for name in ("arch/x86/include/asm/ptrace.h", "arch/x86/include/generated/uapi/asm/unistd_64.h"):
        assert (tree / name).is_file()
    assert sorted(path.name for path in tree.iterdir()) == ["arch", "include"]
    assert [path.name for path in (tree / "arch").iterdir()] == ["x86"]
    links = [path for path in tree.rglob("*") if path.is_symlink()]
    assert all(path.exists() and path.resolve().is_relative_to(tree) for path in links)
    assert times_of_lists() == before
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["last.conf", "lists"]
