"""What a start does with what it finds: only what is damaged is removed, and nothing that is leased."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kheadersd.cache.cache import Cache
from kheadersd.cache.entry import Entry
from kheadersd.cache.leases import Leases
from kheadersd.cache.leftovers import Stay
from kheadersd.cache.recovery import Recovered
from kheadersd.release import Release
from tests.support.made_up_cache import NOON, make, make_durable, names
from tests.support.needs import needs_root

OTHER = Release("5.10.0")
NOBODY = 65534


def reopened(
    directory: Path, is_leased: Callable[[str, int], bool] = lambda *_: False
) -> tuple[Cache, Recovered]:
    cache = Cache(directory)
    found = cache.open(is_leased)
    cache.close()
    return cache, found


def of_version(entry: Entry, version: int) -> None:
    path = entry.directory / "entry.json"
    times = path.stat()
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def entry(cache: Cache) -> Entry:
    entry = make(cache).entry
    assert make_durable(entry)
    cache.close()
    return entry


def missing_header(entry: Entry) -> None:
    (entry.path / "include/linux/types.h").unlink()


def missing_record(entry: Entry) -> None:
    (entry.directory / "entry.json").unlink()


def nonsense(entry: Entry) -> None:
    (entry.directory / "entry.json").write_text("{")


def endless_record(entry: Entry) -> None:
    (entry.directory / "entry.json").unlink()
    (entry.directory / "entry.json").symlink_to("/dev/zero")


def fifo(entry: Entry) -> None:
    for name in ("entry.json", "durable", "manifest"):
        (entry.directory / name).unlink()
        os.mkfifo(entry.directory / name)


def missing_tree(entry: Entry) -> None:
    shutil.rmtree(entry.path)


DAMAGES = [missing_header, missing_record, nonsense, endless_record, fifo, missing_tree]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_goes(entry: Entry, directory: Path, damage: Callable[[Entry], None]) -> None:
    damage(entry)
    cache, found = reopened(directory)
    assert [name for name, _ in found.cleared] == [entry.name]
    assert names(directory) == []
    assert cache.total_bytes() == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_and_leased_stays_where_it_is(
    entry: Entry, directory: Path, damage: Callable[[Entry], None]
) -> None:
    damage(entry)
    before = sorted(entry.directory.rglob("*"))
    cache, found = reopened(directory, lambda *what: what == (entry.name, entry.inode))
    assert found.cleared == []
    assert sorted(entry.directory.rglob("*")) == before
    assert cache.total_bytes() > 0
    assert not any(entry.is_intact() for entry in cache.entries())
    assert [entry for entry, _ in found.damaged] == list(cache.entries())
    # The leases of others, and those of one that had its name before, do not count.
    _, found = reopened(directory, lambda *what: what in ((OTHER, entry.inode), (entry.name, 1)))
    assert [name for name, _ in found.cleared] == [entry.name]


def test_another_version_is_set_aside_and_comes_back(entry: Entry, directory: Path) -> None:
    of_version(entry, 99)
    for _ in range(2):
        cache, found = reopened(directory)
        assert (cache.entries(), found.cleared, found.problems) == ((), [], [])
        (aside,) = names(directory)
        assert aside.startswith(".aside-")
        (leftover,) = cache.leftovers
        assert (leftover.stay, leftover.last_used) == (Stay.OTHER_VERSION, NOON)
        assert cache.total_bytes() == leftover.bytes > 0
    # As if that version ran again.
    path = directory / aside / "entry.json"
    path.write_text(path.read_text().replace('"version": 99', '"version": 3'))
    cache, found = reopened(directory)
    (again,) = cache.entries()
    assert (again.name, again.is_durable, again.record) == (entry.name, True, entry.record)
    assert list(cache.leftovers) == []


def test_another_version_that_is_leased_keeps_its_name(entry: Entry, directory: Path) -> None:
    of_version(entry, 1)
    cache, found = reopened(directory, lambda *_: True)
    assert (cache.entries(), found.cleared, names(directory)) == ((), [], [entry.name])
    assert cache.total_bytes() > 0


def test_one_that_was_made_anew_replaces_what_was_set_aside(entry: Entry, directory: Path) -> None:
    of_version(entry, 99)
    reopened(directory)
    (aside,) = names(directory)
    cache = Cache(directory)
    cache.open()
    make(cache)
    cache.close()
    path = directory / aside / "entry.json"
    path.write_text(path.read_text().replace('"version": 99', '"version": 3'))
    _, found = reopened(directory)
    assert found.cleared == [(aside, "it was made anew")]
    assert names(directory) == [entry.name]


def test_directories_without_an_end(directory: Path) -> None:
    """They are reported, and are no reason not to start."""
    deep = directory / ".trash-1"
    deep.mkdir(parents=True)
    at = os.open(deep, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    _, found = reopened(directory)
    assert [name for name, _ in found.cleared] == [".trash-1"]
    assert len(found.problems) == 1
    subprocess.run(["rm", "-rf", deep], check=True)


@contextlib.contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """As an ordinary user, from whom files can be hidden."""
    directory.parent.chmod(0o755)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@needs_root("to become another user takes root")
@pytest.mark.parametrize("name", ["entry.json", "durable", "manifest", "tree/include/linux", ""])
def test_what_cannot_be_read_now_stays(entry: Entry, directory: Path, name: str) -> None:
    if name in ("manifest", "tree/include/linux"):
        (entry.directory / "durable").unlink()
        missing_header(entry)  # so that all is compared
    hidden = entry.directory / name
    mode = hidden.stat().st_mode
    before = sorted(entry.directory.rglob("*"))
    with as_nobody(directory):
        hidden.chmod(0)
        cache, found = reopened(directory)
    assert (cache.entries(), found.cleared) == ((), [])
    assert "cannot be read now" in found.problems[0]
    assert sorted(entry.directory.rglob("*")) == before
    hidden.chmod(mode)


@needs_root("to become another user takes root")
def test_verify_does_not_take_what_cannot_be_read_for_damage(entry: Entry, directory: Path) -> None:
    cache = Cache(directory)
    with as_nobody(directory):
        cache.open()
        (entry,) = cache.entries()
        (entry.path / "include/linux/types.h").chmod(0o000)
        problems = entry.verify()
    assert len(problems) == 1
    assert "types.h': cannot be read: Permission denied" in problems[0]
    cache.close()


@needs_root("to become another user takes root")
async def test_a_lease_that_cannot_be_read_now_is_not_lost(directory: Path) -> None:
    leases = Leases(directory)
    holder = leases.grant("some", "6.1", ":1.1", 0, 1, "", 7)
    assert leases.is_leased("some", 7)
    assert not leases.is_leased("some", 8)
    leases.close()
    (record,) = [directory / name for name in names(directory) if name.endswith(".json")]
    after = Leases(directory)
    with as_nobody(directory):
        record.chmod(0)
        (problem,) = after.adopt()
    assert "cannot be read now" in problem
    assert after.is_leased("any", 1), "it may be on any"
    record.chmod(0o600)
    again = Leases(directory)
    assert again.adopt() == ()
    assert again.is_leased("some", 7)
    assert not again.is_leased("any", 1)
    again.close()
    after.close()
    os.close(holder)


@pytest.mark.parametrize("name", [".packages", ".registry"])
def test_what_a_download_left_goes(entry: Entry, directory: Path, name: str) -> None:
    (directory / name / "run-abc/packages").mkdir(parents=True)
    (directory / name / "run-abc/packages/big.rpm").touch()
    (directory / name / "dnf").mkdir()
    reopened(directory)
    assert names(directory / name) == ["dnf"]
