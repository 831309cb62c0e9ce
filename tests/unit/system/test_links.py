"""Where links lead, and what may be trusted on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.errors import InvalidArgs
from kheadersd.system.links import resolved, steps
from kheadersd.system.root_owned import trusted_path
from tests.support.directories import made_for_root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc/deep").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("/etc", "etc"),  # below the root, not the machine's
        ("etc/deep/..", "etc"),
        ("../../..", ""),  # no further up than the root
        ("/", ""),
        ("./file", "file"),
    ],
)
def test_links_are_followed_below_the_root(root: Path, target: str, place: str) -> None:
    (root / "link").symlink_to(target)
    assert resolved(root / "link", root) == root / place


def test_a_link_on_the_way_is_among_the_steps(root: Path) -> None:
    (root / "link").symlink_to("etc")
    expected = [root, root / "link", root / "etc", root / "etc/deep"]
    assert list(steps(root / "link/deep", root)) == expected


@pytest.mark.parametrize(
    ("path", "code"), [("etc/missing", errno.ENOENT), ("file/x", errno.ENOTDIR), ("loop", errno.ELOOP)]
)
def test_a_path_that_leads_nowhere(root: Path, path: str, code: int) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        resolved(root / path, root)
    assert caught.value.errno == code


def test_what_is_missing_may_be_taken_for_a_directory(root: Path) -> None:
    (root / "link").symlink_to("/run/missing")
    *_, last = steps(root / "link/a", root, strict=False)
    assert last == root / "run/missing/a"


def test_nothing_is_asked_of_a_step_before_it_is_taken(root: Path) -> None:
    """An automount answers every process that looks at it."""
    (root / "loop").symlink_to("loop")
    walk = steps(root / "loop/x", root)
    assert [next(walk), next(walk)] == [root, root / "loop"]


@pytest.fixture
def roots_directory() -> Iterator[Path]:
    with made_for_root() as path:
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are trusted")
def test_only_what_root_alone_can_change_is_trusted(roots_directory: Path) -> None:
    real, link = roots_directory / "real", roots_directory / "link"
    real.mkdir()
    (real / "program").write_text("")
    link.symlink_to("real")
    path, through = trusted_path(link / "program")
    assert path == real / "program"
    assert {link, real, path, Path("/")} <= set(through)
    real.chmod(0o775)
    with pytest.raises(InvalidArgs, match=f"others than root can write to {real}"):
        trusted_path(link / "program")
    real.chmod(0o755)
    os.lchown(link, 65534, 65534)
    with pytest.raises(InvalidArgs, match=f"{link} belongs to the user 65534"):
        trusted_path(link / "program")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's files are trusted")
def test_a_loop_is_not_trusted(roots_directory: Path) -> None:
    (roots_directory / "loop").symlink_to("loop")
    with pytest.raises(InvalidArgs, match="more than 40 links"):
        trusted_path(roots_directory / "loop")
