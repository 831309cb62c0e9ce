"""Real directories and the real inotify."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.system.inotify import Inotify
from tests.support.running import REPOSITORY


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    inotify = Inotify()
    yield inotify
    inotify.close()
    inotify.close()


@pytest.fixture
def directory(tmp_path: Path, inotify: Inotify) -> Path:
    directory = tmp_path / "watched"
    directory.mkdir()
    assert inotify.watch([directory]) == []
    assert not inotify.drain()
    return directory


def test_names_that_come_and_go(directory: Path, inotify: Inotify) -> None:
    (directory / "file").write_text("")
    assert inotify.drain()
    assert not inotify.drain()
    (directory / "file").rename(directory / "new")
    assert inotify.drain()
    (directory / "new").unlink()
    assert inotify.drain()
    (directory / "below").mkdir()
    assert inotify.drain()


def test_a_file_that_is_written(directory: Path, inotify: Inotify) -> None:
    (directory / "file").write_text("")
    inotify.drain()
    (directory / "file").write_text("more")
    assert inotify.drain()


def test_reading_is_no_change(directory: Path, inotify: Inotify) -> None:
    (directory / "file").write_text("")
    inotify.drain()
    assert (directory / "file").read_text() == ""
    assert list(directory.iterdir())
    assert not inotify.drain()


def test_a_directory_in_the_place_of_another(directory: Path, inotify: Inotify) -> None:
    directory.rename(directory.with_name("old"))
    assert inotify.drain()
    directory.mkdir()
    assert inotify.watch([directory]) == []
    inotify.drain()  # that the watch of the old one is gone
    (directory / "file").write_text("")
    assert inotify.drain()
    (directory.with_name("old") / "file").write_text("")
    assert not inotify.drain()


def test_watched_again_without_a_gap(directory: Path, inotify: Inotify) -> None:
    (directory / "file").write_text("")
    assert inotify.watch([directory, directory]) == []
    assert inotify.drain()
    shutil.rmtree(directory)
    assert inotify.drain()
    assert inotify.watch([directory]) == [], "it does not exist, which is no problem"
    directory.mkdir()
    assert not inotify.drain()


def test_not_watched_any_more(directory: Path, inotify: Inotify) -> None:
    assert inotify.watch([]) == []
    inotify.drain()
    (directory / "file").write_text("")
    assert not inotify.drain()


def test_a_file_is_not_watched(directory: Path, inotify: Inotify) -> None:
    file = directory / "file"
    file.write_text("")
    assert inotify.watch([file]) == []


def test_an_overflow_is_an_event(directory: Path, inotify: Inotify) -> None:
    """More events than the kernel keeps; nobody reads meanwhile."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    one, other = directory / "one", directory / "other"
    one.write_text("")
    for _ in range(limit // 2 + 500):
        one.rename(other)
        one, other = other, one
    assert inotify.drain()
    assert not inotify.drain()
    one.unlink()
    assert inotify.drain()


def test_too_many_watches(tmp_path: Path) -> None:
    """The limit of a user namespace, which has its own (namespaces(7)): the machine's stays as it is."""
    program = """
import sys
from pathlib import Path
from kheadersd.system.inotify import Inotify
Path("/proc/sys/user/max_inotify_watches").write_text("2")
base = Path(sys.argv[1])
directories = [base / str(number) for number in range(4)]
for directory in directories:
    directory.mkdir()
inotify = Inotify()
print([problem.strerror for problem in inotify.watch(directories)])
(directories[0] / "file").write_text("")
print(inotify.drain())
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    if "max_inotify_watches" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr}")
    assert done.stdout == "['No space left on device', 'No space left on device']\nTrue\n", done.stderr
