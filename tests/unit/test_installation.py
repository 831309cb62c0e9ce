"""What meson installs below a directory: everything, by the right paths, and nothing enabled."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kheadersd import __version__
from tests.support.running import REPOSITORY


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meson's build directory, for a prefix that no system has."""
    directory = tmp_path_factory.mktemp("meson") / "build"
    _meson("setup", str(directory), "--prefix=/opt/kh", f"-Dpython={sys.executable}")
    return directory


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The directory below which all is installed."""
    below = built.with_name("root")
    _meson("install", "-C", str(built), "--destdir", str(below))
    return below


def _meson(*words: str) -> None:
    done = subprocess.run(["meson", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _files(root: Path) -> set[Path]:
    """The files below a directory, without those that a newer meson compiles."""
    files = (path for path in root.rglob("*") if path.is_file() or path.is_symlink())
    return {path.relative_to(root) for path in files if path.parent.name != "__pycache__"}


def _found(root: Path, name: str) -> Path:
    (path,) = root.rglob(name)
    return path


def test_every_source_is_installed(installed: Path) -> None:
    there = {path.name for path in _files(installed)}
    renamed = {
        "kheadersctl.bash": "kheadersctl",
        "kheadersd.sysusers": "kheadersd.conf",
        "kheadersd.tmpfiles": "kheadersd.conf",
    }
    for directory in ("units", "man", "completions", "dbus-policy"):
        for source in (REPOSITORY / directory).iterdir():
            name = source.name.removesuffix(".in")
            if name != "meson.build":
                assert renamed.get(name, name) in there, source


def test_the_python_package_is_the_sources(installed: Path) -> None:
    package = _found(installed, "bcc.py").parent
    assert _files(package) == _files(REPOSITORY / "kheadersd")


def test_nothing_is_outside_of_the_prefix(installed: Path) -> None:
    outside = {path for path in _files(installed) if path.parts[:2] != ("opt", "kh")}
    assert outside == set()


def test_paths_are_substituted(installed: Path) -> None:
    for path in installed.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc", ".h"):
            text = path.read_text()
            assert not re.search(r"@[A-Z]+@", text), path
            assert not re.search(r"/usr/(bin|lib|libexec)/kheaders(ctl|d)\b(?!\.conf\.d)", text), path
            for name in re.findall(r"/opt/kh/[\w./@-]+[\w]", text):
                assert (installed / name[1:]).exists() or "python" in name, (path, name)


def test_nothing_is_enabled_and_the_preset_names_what_can_be(installed: Path) -> None:
    assert list(installed.rglob("*.wants")) == []
    preset = _found(installed, "*.preset").read_text()
    units = _found(installed, "kheadersd.service").parent
    can = {path.name for path in units.iterdir() if "\n[Install]\n" in path.read_text()}
    assert set(re.findall(r"^enable (\S+)$", preset, re.MULTILINE)) == can


def test_modes(installed: Path) -> None:
    for path in installed.rglob("*"):
        if path.is_file():
            is_program = path.read_bytes().startswith(b"#!") and "kheadersd/data" not in str(path)
            assert path.stat().st_mode & 0o7777 == (0o755 if is_program else 0o644), path


def test_the_metadata_is_that_of_pyproject(installed: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    place = _found(installed, "METADATA").parent
    (found,) = importlib.metadata.distributions(name="kheadersd", path=[str(place.parent)])
    assert found.version == __version__
    assert found.requires == project["dependencies"]
    commands = {point.name: point.value for point in found.entry_points}
    assert commands == project["scripts"]


def test_the_launchers_are_isolated(installed: Path, tmp_path: Path) -> None:
    """They find the package wherever it is, and take nothing from the environment."""
    (tmp_path / "kheadersd.py").write_text("raise SystemExit('from the environment')")
    for name in ("kheadersd", "kheadersctl"):
        launcher = _found(installed / "opt/kh/bin", name)
        below = tmp_path / name
        # As if the directory were the root.
        below.write_text(launcher.read_text().replace("/opt/kh/", f"{installed}/opt/kh/"))
        done = subprocess.run(
            [sys.executable, "-I", str(below), "--version"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert __version__ in done.stdout
        assert launcher.read_text().splitlines()[0] == f"#!{sys.executable} -I"


def test_one_version() -> None:
    found = re.match(r"kheadersd \((\S+)\)", (REPOSITORY / "debian/changelog").read_text())
    assert found is not None
    assert found[1] == __version__


def test_without_dpkg_one_line_says_what_is_needed(tmp_path: Path) -> None:
    for tool in ("sh", "dirname", "sed"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    for command in ("try", "test", "install"):
        done = subprocess.run(
            [str(REPOSITORY / "dev"), command],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(
            f"./dev: '{command}' needs Debian's packages, and there is no dpkg-query here."
        )
        assert "CONTRIBUTING.md" in line
