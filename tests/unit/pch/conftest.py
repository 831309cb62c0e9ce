"""A host that shows a small archive, and what serves precompiled headers of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.config import Config
from kheadersd.daemon.parts import Parts
from kheadersd.host.host import Host
from tests.support.archives import make_kheaders
from tests.support.hosts import RELEASE, make_host, show_in_sysfs
from tests.support.pch_rig import Rig
from tests.support.small_headers import FILES


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = make_host(tmp_path / "host")
    show_in_sysfs(made, make_kheaders(RELEASE, FILES))
    return made


@pytest.fixture
async def rig(state: Parts) -> AsyncIterator[Rig]:
    rig = Rig(state, Config(max_pchs=2))
    yield rig
    await rig.close()
