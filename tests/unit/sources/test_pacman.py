"""Which version of a package is a kernel's, and what is taken of pacman's output and of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheadersd.host.host import Host
from kheadersd.release import Release
from kheadersd.sources.pacman import _is_version_of, _packages, _version_of
from kheadersd.sources.pacman_config import pacman_configuration
from kheadersd.sources.source import NotFound

# Of Arch Linux: core/linux, core/linux-lts, extra/linux-zen, extra/linux-hardened, a first release, and
# linux-rt-lts; of CachyOS and of Manjaro.
KERNELS = [
    ("6.9.1-arch1-1", "6.9.1.arch1-1", "linux"),
    ("6.6.32-1-lts", "6.6.32-1", "linux-lts"),
    ("6.9.1-zen1-1-zen", "6.9.1.zen1-1", "linux-zen"),
    ("6.8.10-hardened1-1-hardened", "6.8.10.hardened1-1", "linux-hardened"),
    ("6.9.0-arch1-1", "6.9.arch1-1", "linux"),
    ("6.12.57-rt14-1-rt-lts", "6.12.57.rt14-1", "linux-rt-lts"),
    ("6.17.8-2-cachyos-bore", "6.17.8-2", "linux-cachyos-bore"),
    ("6.12.48-1-MANJARO", "6.12.48-1", "linux612"),
]


@pytest.mark.parametrize(("release", "version", "base"), KERNELS)
def test_the_version_of_a_release(release: str, version: str, base: str) -> None:
    assert _is_version_of(version, Release(release), base)
    assert _version_of(Release(release), base) == version
    others = [other for _, other, _ in KERNELS if other != version]
    assert not any(_is_version_of(other, Release(release), base) for other in others)


@pytest.mark.parametrize("release", ["6.9.1", "-", "a b-1", "6.9.1-arch1-x", "/../x-1", "6.9.1-$(id)-1"])
def test_no_version(release: str) -> None:
    assert _version_of(Release(release), "linux") is None


def test_packages_of_several_repositories() -> None:
    block = "Repository      : {}\nName            : linux-headers\nVersion         : {}\n"
    text = "\n".join([block.format("testing", "6.9.2.arch1-1"), block.format("core", "6.9.1.arch1-1")])
    assert [(found.repository, found.version) for found in _packages(text, "linux-headers")] == [
        ("testing", "6.9.2.arch1-1"),
        ("core", "6.9.1.arch1-1"),
    ]
    assert _packages(block.format("--config=x", "1-1"), "linux-headers") == []
    assert _packages(block.format("core", "../1-1"), "linux-headers") == []
    assert _packages(text, "linux") == []


def configured(root: Path, text: str, **files: str) -> str:
    (root / "etc").mkdir()
    (root / "etc/pacman.conf").write_text(text)
    for name, content in files.items():
        (root / "etc" / name).write_text(content)
    return pacman_configuration(Host(root))


def test_what_is_taken_of_a_configuration(tmp_path: Path) -> None:
    text = configured(
        tmp_path,
        "[options]\nHookDir = /h\nDBPath=/d\nGPGDir = /g\nCacheDir = /c\nXferCommand = /x\nIgnorePkg = a\n"
        "DownloadUser = alpm\nNoExtract = usr/*\nSigLevel = Never\nArchitecture = auto\n"
        "[core]\nInclude = /etc/m*\n[extra]\nSigLevel = Optional TrustAll\nServer = https://b.example/$repo\n"
        "[/etc]\nServer = https://c.example/\n",
        mirrors="# Server = https://no.example\nServer = https://a.example/$repo/os/$arch\n",
    )
    always = "PackageRequired PackageTrustedOnly"
    assert text == (
        f"[options]\nSigLevel = Required DatabaseOptional {always}\nSigLevel = Never {always}\n"
        f"Architecture = auto\nRemoteFileSigLevel = {always}\nDisableSandbox\n"
        "[core]\nServer = https://a.example/$repo/os/$arch\n"
        f"[extra]\nSigLevel = Optional TrustAll {always}\nServer = https://b.example/$repo\n"
    )


def test_files_that_include_one_another(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="too many files"):
        configured(tmp_path, "[options]\nInclude = /etc/pacman.conf\n")


def test_an_image_that_includes_a_file_of_this_machine(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("Server = https://a.example/\n")
    (root / "etc").mkdir()
    (root / "etc/link").symlink_to(tmp_path / "secret")
    (root / "etc/pacman.conf").write_text("[core]\nInclude = /etc/link\n")
    with pytest.raises(NotFound, match="cannot be read"):
        pacman_configuration(Host(root))
