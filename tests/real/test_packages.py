"""The packages of other distributions, built here: their files are those of Debian's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd import __version__
from tests.support import package
from tests.support.other_user import as_user
from tests.support.programs import run
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow

SPEC = REPOSITORY / "packaging/rpm/kheadersd.spec"
FILTERS = SPEC.with_suffix(".rpmlintrc")
ARCH = REPOSITORY / "packaging/arch"

# What a build has on Fedora by its macros and its generator of dependencies, or its build service adds.
_OF_DEBIANS_MACROS = (
    *(
        "no-signature",
        "no-packager-tag",
        "no-group-tag",
        "no-buildroot-tag",
        "no-dependency-on",
        "python-missing-require",
        "invalid-url",
    ),
    # Neither compressed, nor licenses by their SPDX names.
    *("manpage-not-compressed", "no-manual-page-for-binary", "bad-manual-page-folder", "invalid-license"),
)
# Each distribution's own place, or what only it has.
_PLACES = (
    (r"^lib/", "usr/lib/"),
    (r"^usr/lib/python[0-9.]*/(dist|site)-packages/", "PYTHON/"),
    (r"^usr/(lib|libexec)/kheadersd/", "LIBEXEC/"),
    (r"^usr/share/zsh/(site-functions|vendor-completions)/", "ZSH/"),
    (r"(/man/.*)\.gz$", r"\1"),
)
_LEFT_OUT = re.compile(r"usr/share/(doc|licenses)/|etc/kernel/|.*/__pycache__/|\.[A-Z]+$")


@pytest.fixture(scope="module")
def work() -> Iterator[Path]:
    """A directory that an ordinary user can write to."""
    directory = Path(tempfile.mkdtemp(prefix="kh-packages-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def tarball(work: Path) -> Path:
    """What ``./dev package --source`` makes, of the present tree."""
    name = f"kheadersd-{__version__}"
    package.copy_tree(work / "tree")
    archive = work / f"{name}.tar.xz"
    with tarfile.open(archive, "w:xz", preset=1) as tar:
        tar.add(work / "tree", name)
    return archive


@pytest.fixture(scope="module")
def debian(work: Path) -> set[str]:
    """The files of the Debian package."""
    run("dpkg-deb", "-x", package.package(), work / "debian")
    names = (
        str(path.relative_to(work / "debian")) for path in (work / "debian").rglob("*") if path.is_file()
    )
    return normal(names)


def normal(names: Iterator[str]) -> set[str]:
    """The names of files without what differs between distributions."""
    found = set()
    for name in names:
        if not _LEFT_OUT.match(name):
            place = name
            for pattern, replacement in _PLACES:
                place = re.sub(pattern, replacement, place)
            found.add(place)
    return found


def test_rpm(work: Path, tarball: Path, debian: set[str]) -> None:
    (work / "rpm/SOURCES").mkdir(parents=True)
    shutil.copy(tarball, work / "rpm/SOURCES")
    # Debian's rpm knows of no package that is installed here.
    topdir = f"_topdir {work}/rpm"
    run("rpmbuild", "--define", topdir, "--nodeps", "-bb", SPEC, env={"PATH": "/usr/sbin:/usr/bin:/bin"})
    (built,) = (work / "rpm/RPMS").rglob("*.rpm")
    listing = run("rpm", "-qp", "--queryformat", "[%{FILEMODES:perms} %{FILENAMES}\n]", built)
    files = (line.split()[1][1:] for line in listing.splitlines() if line.startswith("-"))
    assert normal(files) == debian

    lint = ["rpmlint", "--ignore-unused-rpmlintrc", "--rpmlintrc", str(FILTERS), str(built), str(SPEC)]
    said = subprocess.run(lint, capture_output=True, text=True, check=False).stdout
    tags = [line for line in said.splitlines() if re.search(r": [EW]: ", line)]
    assert tags, said
    assert [tag for tag in tags if not any(f": {known}" in tag for known in _OF_DEBIANS_MACROS)] == []


def test_arch(work: Path, tarball: Path, debian: set[str]) -> None:
    directory = work / "arch"
    shutil.copytree(ARCH, directory)
    shutil.copy(tarball, directory)
    directory.chmod(0o777)
    environment = (
        "env",
        f"--chdir={directory}",
        "PATH=/usr/bin:/bin",
        f"HOME={directory}",
        "PKGEXT=.pkg.tar",
    )
    run(*as_user("nobody"), *environment, "makepkg", "--nodeps")
    (built,) = directory.glob("*.pkg.tar")
    with tarfile.open(built) as tar:
        assert normal(member.name for member in tar if member.isfile()) == debian


# What of nixpkgs the files use: enough to evaluate them, and nothing that builds.
_STUBS = """
let
  lib = {
    cleanSource = path: path;
    makeBinPath = builtins.concatStringsSep ":";
    licenses.lgpl21Plus = "lgpl";
    platforms.linux = [ "x86_64-linux" ];
    mkEnableOption = description: description;
    mkOption = option: option;
    mkIf = condition: value: if condition then value else { };
    types = { package = "package"; lines = "lines"; };
  };
  pkgs = {
    inherit lib;
    stdenv = { shell = "/bin/sh"; mkDerivation = attributes: attributes; };
    python3.withPackages = choose: "/python-with-" + builtins.concatStringsSep "-" (
      choose { dbus-next = "dbus-next"; pyudev = "pyudev"; systemd = "systemd"; zstandard = "zstandard"; });
    meson = "/meson"; ninja = "/ninja"; kmod = "/kmod"; util-linux = "/util-linux";
    systemd = "/systemd"; coreutils = "/coreutils";
    findutils = "/findutils"; gnused = "/gnused";
    callPackage = file: { }:
      let f = import file; in f (builtins.intersectAttrs (builtins.functionArgs f) pkgs);
  };
  package = pkgs.callPackage NIX/package.nix { };
  config.services.kheadersd = { enable = true; package = "the package"; settings = ""; };
  module = import NIX/module.nix { inherit config lib pkgs; };
in
{ inherit (package) mesonFlags postPatch version; inherit (module.config) systemd users; }
"""


def test_nix_evaluates() -> None:
    """What the module enables is what the preset enables: NixOS looks at neither [Install] nor presets."""
    stubs = _STUBS.replace("NIX", str(REPOSITORY / "packaging/nix"))
    options = ("--store", "dummy://", "--eval", "--strict", "--json")
    evaluated = json.loads(run("nix-instantiate", *options, "--expr", stubs))
    assert evaluated["version"] == __version__
    assert "-Dpython=/python-with-dbus-next-pyudev-systemd-zstandard/bin/python3" in evaluated["mesonFlags"]
    systemd = evaluated["systemd"]
    enabled = set(systemd["targets"]["multi-user"]["wants"])
    for kind in ("timers", "paths"):
        enabled |= {f"{name}.{kind[:-1]}" for name in systemd[kind]}
    preset = (REPOSITORY / "units/90-kheadersd.preset").read_text()
    assert enabled == set(re.findall(r"(?m)^enable (\S+)", preset))


@pytest.mark.parametrize(
    "file", ["packaging/rpm/kheadersd.spec", "packaging/arch/PKGBUILD", "packaging/nix/package.nix"]
)
def test_one_version(file: str) -> None:
    found = re.search(r'(?m)^\s*(?:Version:|pkgver=|version =)\s*"?([\d.]+)', (REPOSITORY / file).read_text())
    assert found is not None
    assert found[1] == __version__
