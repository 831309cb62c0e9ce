"""The wheel alone: the command, the daemon for a session bus, and what it says that it lacks."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.hosts import RELEASE, make_host, put_tree
from tests.support.package import copy_tree
from tests.support.programs import run
from tests.support.running import Bus

pytestmark = pytest.mark.slow

_SERVED = """\
"$1/kheadersd" --session --root "$2" --cache-directory "$3" &
daemon=$!
trap 'kill "$daemon"; wait "$daemon"' EXIT
gdbus wait --session --timeout 20 org.kheaders.Provide
"$1/kheadersctl" --session get
"""
_MAY_NOT_OWN = '<policy context="mandatory"><deny own="org.kheaders.Provide"/></policy>'


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the commands of a virtual environment that the wheel is installed in."""
    directory = tmp_path_factory.mktemp("wheel")
    copy_tree(directory / "source")
    venv.create(directory / "venv", system_site_packages=True, symlinks=True, with_pip=False)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "-w", directory, directory / "source")
    (wheel,) = directory.glob("*.whl")
    run(*pip, f"--python={directory}/venv/bin/python", "install", "--no-deps", "--no-index", wheel)
    return directory / "venv/bin"


@pytest.fixture(autouse=True)
def of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """The D-Bus library is the distribution's, also where `in_suite` hides it."""
    monkeypatch.delenv("PYTHONPATH", raising=False)


def test_the_session_bus(commands: Path, tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    tree = put_tree(host.modules_directory(RELEASE) / "build")
    done = subprocess.run(
        [*("dbus-run-session", "--", "sh", "-ec", _SERVED, "sh", commands, host.root, tmp_path / "cache")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(tree))


def test_the_command_without_a_daemon(commands: Path, bus: Bus, tmp_path: Path) -> None:
    shown = subprocess.run(
        [commands / "kheadersctl", "get", "--help"], capture_output=True, text=True, check=True
    )
    assert "--source" in shown.stdout
    done = _on(bus, commands / "kheadersctl", "status", directory=tmp_path)
    assert done.returncode == 5
    assert "the distribution's package has installed the units and the bus policy" in done.stderr


def test_the_daemon_on_a_bus_without_its_policy(commands: Path, tmp_path: Path) -> None:
    (tmp_path / "bus").mkdir()
    bus = Bus(tmp_path / "bus", _MAY_NOT_OWN)
    bus.start()
    arguments = ("--root", tmp_path, "--cache-directory", tmp_path / "cache")
    done = _on(bus, commands / "kheadersd", *arguments, directory=tmp_path)
    bus.stop()
    assert done.returncode == 1
    assert "come with the distribution's package of kheadersd" in done.stderr
    assert "'kheadersd --session'" in done.stderr


def _on(bus: Bus, *command: str | Path, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
