"""What kheadersctl says on roots of other distributions, made up out of Debian's headers and module."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest

from tests.support.directories import for_all_users
from tests.support.layouts import Headers
from tests.support.running import REPOSITORY
from tests.support.transcripts import DISTRIBUTIONS, Transcript, transcript

pytestmark = pytest.mark.slow


@dataclasses.dataclass(frozen=True)
class Said:
    """What has to be said: as regular expressions of whole lines."""

    present: tuple[str, ...]
    absent: tuple[str, ...]


IN_CACHE = r"/var/cache/kheaders/6\.\S+-[0-9a-f]{12}…/tree"
NOT_THERE = "which is not there: the package with the headers is not installed"
SAID = {
    "Fedora": Said(
        (
            r"Headers: +/usr/src/kernels/6\.17\.1-300\.fc43\.x86_64 \(from tree\)",
            r"/usr/src/kernels/6\.17\.1-300\.fc43\.x86_64",
        ),
        (
            rf"  tree: /usr/lib/modules/6\.17\.1\S+/build leads to /usr/src/kernels/6\.17\.1\S+, {NOT_THERE}",
            r"  module-file: there is no kheaders\.ko below /usr/lib/modules/6\.17\.1\S+",
            r"  to have them: 'dnf install kernel-devel-6\.17\.1-300\.fc43\.x86_64' .* Fedora Linux 43.*",
        ),
    ),
    "openSUSE": Said(
        (r"/usr/src/linux-6\.4\.0-150600\.23\.47-obj/x86_64/default",),
        (
            rf"  tree: /usr/lib/modules/\S+/build leads to \S+/default, {NOT_THERE}; .*",
            r"  package: no package manager .* \(zypper: no /etc/zypp/repos\.d\)",
            r"  to have them: 'zypper install kernel-default-devel=6\.4\.0-150600\.23\.47' .*",
        ),
    ),
    "Arch": Said(
        (r"/usr/lib/modules/6\.14\.4-arch1-2/build",),
        (
            r"  tree: there is no /usr/lib/modules/6\.14\.4-arch1-2/build, and none of .*",
            r"  to have them: 'pacman -S linux-headers' installs .*",
        ),
    ),
    "NixOS": Said(
        (r"Module: +available", IN_CACHE),
        (
            r"  module-file: there is no kheaders\.ko below /nix/store/\S+",
            r"  to have them: nixpkgs has them in boot\.kernelPackages\.kernel\.dev, .*",
        ),
    ),
    "Flatcar": Said(
        (r"Module: +available", IN_CACHE),
        (
            r"  module-file: there is no kheaders\.ko below /usr/lib/modules/\S+",
            r"  to have them: Flatcar .* has no headers package: its kernels have the module kheaders, .*",
        ),
    ),
}


@pytest.fixture(scope="module")
def headers() -> Iterator[Headers]:
    with for_all_users("kh-layouts-", "/dev/shm") as directory:
        yield Headers(directory)


def lacks(text: str, patterns: tuple[str, ...]) -> list[str]:
    lines = text.splitlines()
    return [pattern for pattern in patterns if not any(re.fullmatch(pattern, line) for line in lines)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_is_said(headers: Headers, name: str) -> None:
    said: Transcript = transcript(name, headers)
    assert lacks(said.present, SAID[name].present) == [], said.present
    assert lacks(said.absent, SAID[name].absent) == [], said.absent
    assert said.codes == [0, 0, 3]
    assert "apt install" not in said.absent


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_documentation_has_it(name: str) -> None:
    text = (REPOSITORY / "docs/distributions.md").read_text()
    section = text.partition(f"\n### {name}\n")[2].partition("\n### ")[0]
    assert lacks(section, (*SAID[name].present, *SAID[name].absent)) == []
