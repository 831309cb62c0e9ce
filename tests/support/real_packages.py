"""Debian's real headers, packed as other distributions have them: a whole tree in one package."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support import store
from tests.support.kheaders import RealHeaders
from tests.support.pacman_repository import build_package
from tests.support.programs import run
from tests.support.rpm_repository import build_rpm


def real_rpm(headers: RealHeaders, release: str) -> Path:
    """An unsigned kernel-devel, whose headers say that they are of a release such as 6.1.0-1.test.x86_64."""

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as name:
            place = f"usr/src/kernels/{release}"
            _unpack(headers, Path(name, place), release)
            build_rpm(
                directory,
                "kernel-devel",
                release.removesuffix(".x86_64"),
                {},
                tree=(Path(name), place),
                provides=f"kernel-devel-uname-r = {release}",
            )

    kept = store.kept("kernel-devel", store.key_of(headers.release, release), make)
    return next(kept.glob("*.rpm"))


def real_pacman_package(headers: RealHeaders, release: str, version: str) -> Path:
    """An unsigned linux-headers, whose headers say that they are of another release."""

    def make(directory: Path) -> None:
        with tempfile.TemporaryDirectory() as top:
            _unpack(headers, Path(top, f"usr/lib/modules/{release}/build"), release)
            build_package(directory, "linux-headers", version, Path(top))

    kept = store.kept("pacman-headers", store.key_of(headers.release, release, version), make)
    return next(kept.glob("*.pkg.tar.zst"))


def _unpack(headers: RealHeaders, tree: Path, release: str) -> None:
    tree.mkdir(parents=True)
    run("tar", "--extract", "--file", str(headers.archive), "--directory", str(tree))
    (tree / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{release}"\n')
