"""A served host below a directory, as the tests of the whole daemon need it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.archives import make_kheaders
from tests.support.clients import big_kheaders
from tests.support.running import Bus, Daemon, MakeDaemon
from tests.support.served_host import RELEASE, ServedHost


@pytest.fixture
def host(tmp_path: Path) -> ServedHost:
    root = tmp_path / "root"
    root.mkdir()
    served = ServedHost(root)
    served.show(make_kheaders(RELEASE))
    return served


@pytest.fixture
def daemon(host: ServedHost, bus: Bus, make_daemon: MakeDaemon) -> Daemon:
    return make_daemon(bus, root=host.root)


@pytest.fixture
def big_host(host: ServedHost) -> ServedHost:
    host.show(big_kheaders(RELEASE))
    return host


@pytest.fixture
def big_daemon(big_host: ServedHost, daemon: Daemon) -> Daemon:
    return daemon
