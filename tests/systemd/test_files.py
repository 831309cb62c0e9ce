"""What can be said of the units without running them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY

# systemd 252's own systemd-hostnamed has 1.5. The two that load and unload need the capability for that.
EXPOSURE = {
    "kheadersd.service": 1.0,
    "kheaders-boot.service": 1.0,
    "kheaders-prune.service": 1.0,
    "kheaders-provide.service": 1.0,
    "kheaders-link.service": 1.0,
    "kheaders-relink.service": 1.0,
    "kheaders-dkms.service": 1.0,
    "kheaders-fetch@.service": 1.2,
    "kheaders-compile@.service": 0.5,
    "kheaders-push.service": 1.8,
    "kheaders-module.service": 1.3,
    "kheaders-module-unload.service": 1.3,
}


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the units as they are installed."""
    build = tmp_path_factory.mktemp("meson")
    root = build / "root"
    for words in (
        ["setup", str(build), "--prefix=/usr"],
        ["install", "-C", str(build), "--destdir", str(root)],
    ):
        subprocess.run(["meson", *words], cwd=REPOSITORY, check=True, capture_output=True)
    return next(root.rglob("kheadersd.service")).parent


@pytest.mark.parametrize("unit", EXPOSURE)
def test_exposure(units: Path, unit: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(units / unit)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found
    assert float(found[1]) <= EXPOSURE[unit], done.stdout
