"""Links that lead to the automount, which must not be touched: the mount waits for the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheadersd.host.automount import leads_to_automount, standard_directory
from tests.support.hosts import RELEASE, make_host


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/run/kheaders/build", True),
        ("/run/kheaders/build/", True),
        ("/run/kheaders/build/include", True),
        ("../../../run/kheaders/build", True),
        ("/usr/src/by-hand", True),
        ("/run/kheaders/builds", False),
        ("/usr/src/linux", False),
        ("build", False),
    ],
)
def test_links_to_the_automount(tmp_path: Path, target: str, expected: bool) -> None:
    host = make_host(tmp_path)
    by_hand = host.path("usr/src/by-hand")
    by_hand.parent.mkdir(parents=True)
    by_hand.symlink_to("/run/kheaders/build")
    link = host.modules_directory(RELEASE) / "build"
    link.symlink_to(target)
    assert leads_to_automount(link, host) is expected


def test_where_a_standard_directory_leads(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    link = host.modules_directory(RELEASE) / "build"
    assert standard_directory("build", RELEASE, host) is None
    link.symlink_to("/run/kheaders/build")
    host.path("run/kheaders/build").mkdir(parents=True)
    assert standard_directory("build", RELEASE, host) is None
    link.unlink()
    link.symlink_to("/usr/src/linux")
    with pytest.raises(FileNotFoundError):
        standard_directory("build", RELEASE, host)
    host.path("usr/src/linux").mkdir(parents=True)
    assert standard_directory("build", RELEASE, host) == host.path("usr/src/linux")
