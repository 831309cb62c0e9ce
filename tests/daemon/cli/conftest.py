"""kheadersctl, and a service of canned answers for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ctl_rig import Ctl, Service, canned_service, private_bus
from tests.support.directories import for_all_users


@pytest.fixture(scope="module")
def bus() -> Iterator[str]:
    with for_all_users("kh-ctl-") as directory, private_bus(directory) as address:
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
