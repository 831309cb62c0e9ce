"""kheaders.ko as distributions ship it."""

# ruff: noqa: ASYNC240 - nothing else waits for the loop of a test

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kheadersd.errors import Corrupt
from kheadersd.release import Release
from kheadersd.sources.module_file import ModuleFileSource, cut_out
from tests.support.archives import WRAPPINGS
from tests.support.hosts import ignore, make_host

if TYPE_CHECKING:
    from tests.support.kheaders import RealHeaders


pytestmark = pytest.mark.slow


def strip(how: str, module: Path, directory: Path) -> Path:
    result = directory / "it.ko"
    subprocess.run(["strip", f"--{how}", "-o", result, module], check=True)
    return result


@pytest.mark.parametrize("suffix", WRAPPINGS)
@pytest.mark.parametrize("kind", ["stripped", "unstripped", "signed", "strip-unneeded"])
async def test_real_modules(
    tmp_path: Path, real_headers: RealHeaders, real_archive: Path, kind: str, suffix: str
) -> None:
    module = {"unstripped": real_headers.unstripped, "signed": real_headers.signed}.get(
        kind, real_headers.module
    )
    if kind == "strip-unneeded":
        module = strip(kind, real_headers.unstripped, tmp_path)
    content = module.read_bytes()
    if kind == "signed":
        assert content.endswith(b"~Module signature appended~\n")
    host = make_host(tmp_path / "host")
    release = Release(real_headers.release)
    path = host.modules_directory(release) / f"kernel/kernel/kheaders.ko{suffix}"
    path.parent.mkdir(parents=True)
    path.write_bytes(WRAPPINGS[suffix](content))
    archive = await ModuleFileSource(host).find(release, ignore)
    assert cut_out(content, "it", release) == real_archive.read_bytes()
    assert sum(map(len, archive.layers[0].chunks())) == archive.layers[0].tar_bytes > 20_000_000


def test_a_real_module_without_symbols(tmp_path: Path, real_headers: RealHeaders) -> None:
    stripped = strip("strip-all", real_headers.unstripped, tmp_path)
    with pytest.raises(Corrupt, match="no symbol table"):
        cut_out(stripped.read_bytes(), "it", Release(real_headers.release))
