"""A host with real headers, and directories that are root's for compilers of the tests' own."""

from __future__ import annotations

import compileall
import shutil
from pathlib import Path

import pytest

from tests.support.archives import make_kheaders
from tests.support.kheaders import RealHeaders
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon
from tests.support.served_host import ServedHost
from tests.support.small_headers import FILES, RELEASE


@pytest.fixture
def host(tmp_path: Path) -> ServedHost:
    """A host whose running kernel shows a small archive."""
    root = tmp_path / "root"
    root.mkdir()
    served = ServedHost(root)
    served.show(make_kheaders(RELEASE, FILES))
    return served


@pytest.fixture
def root(tmp_path: Path, real_headers: RealHeaders) -> Path:
    """A host whose kernel has a real kheaders.ko."""
    root = tmp_path / "real"
    modules = root / "lib/modules" / real_headers.release / "kernel/kernel"
    osrelease = root / "proc/sys/kernel/osrelease"
    for directory in (modules, osrelease.parent):
        directory.mkdir(parents=True)
    osrelease.write_text(real_headers.release + "\n")
    shutil.copy(real_headers.module, modules / "kheaders.ko")
    return root


@pytest.fixture
def daemon(host: ServedHost, memory: Path, bus: Bus, make_daemon: MakeDaemon) -> Daemon:
    """One that serves the small archive."""
    return make_daemon(bus, root=host.root, cache=memory / "cache")


@pytest.fixture
def real_daemon(root: Path, memory: Path, bus: Bus, make_daemon: MakeDaemon) -> Daemon:
    """One that serves real headers."""
    return make_daemon(bus, root=root, cache=memory / "cache")


@pytest.fixture
def package(roots_own: Path) -> Path:
    """Where kheadersd is root's alone, and compiled, as installed, wherever the checkout is."""
    shutil.copytree(REPOSITORY / "kheadersd", roots_own / "kheadersd")
    compileall.compile_dir(roots_own, quiet=1)
    return roots_own
