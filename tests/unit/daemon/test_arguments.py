"""The directories that follow from the arguments."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kheadersd.config import Config
from kheadersd.daemon.arguments import cache_directory, parse_arguments, root_directory
from kheadersd.errors import KheadersError

DEFAULT = Config().cache_directory


def test_the_argument_wins_over_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = parse_arguments(["--session", "--cache-directory", "here"])
    assert cache_directory(arguments, Path("/configured")) == tmp_path / "here"


def test_on_a_session_bus_the_default_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory(parse_arguments([]), DEFAULT) == DEFAULT
    assert cache_directory(parse_arguments(["--session"]), DEFAULT) == tmp_path / "kheaders"
    assert cache_directory(parse_arguments(["--session"]), Path("/configured")) == Path("/configured")


def test_a_relative_user_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory(parse_arguments(["--session"]), DEFAULT) == tmp_path / ".cache/kheaders"


def test_a_path_that_the_bus_cannot_carry_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "\udc80"
    with pytest.raises(KheadersError, match=r"the cache directory .*\\x80: its path is not UTF-8"):
        cache_directory(parse_arguments(["--cache-directory", str(odd)]), DEFAULT)
    odd.mkdir()
    with pytest.raises(KheadersError, match=r"--root .*: its path is not UTF-8"):
        root_directory(parse_arguments(["--root", str(odd)]))


def test_a_root_that_cannot_be_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(KheadersError, match=r"--root /.*: Permission denied"):
        root_directory(parse_arguments(["--root", str(tmp_path)]))


def test_the_root_is_an_existing_directory_without_links(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root")
    assert root_directory(parse_arguments(["--root", str(tmp_path / "link")])) == tmp_path / "root"
    with pytest.raises(KheadersError, match="there is no such directory"):
        root_directory(parse_arguments(["--root", str(tmp_path / "missing")]))
