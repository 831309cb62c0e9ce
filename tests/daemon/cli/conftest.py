"""kheadersctl, and a service of canned answers for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ctl_rig import Ctl, Service, canned_service, private_bus


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)  # other users are let in, too
        with private_bus(directory) as address:
            yield address


@pytest.fixture
def lonely(bus: str) -> Ctl:
    """kheadersctl on a bus without the service."""
    return Ctl(bus)


@pytest.fixture
def service(bus: str) -> Iterator[Service]:
    with canned_service(bus) as running:
        yield running


@pytest.fixture
def ctl(bus: str, service: Service) -> Ctl:
    return Ctl(bus)
