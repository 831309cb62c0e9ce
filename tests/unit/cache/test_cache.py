from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import mmap
import os
import shutil
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kheadersd.cache.cache import Cache
from kheadersd.cache.manifest import FILE_MODE
from kheadersd.errors import NoSpace
from kheadersd.release import Release
from kheadersd.system.disk import DiskError, Lost, Vanished, remove_tree
from tests.support.made_up_cache import (
    NOON,
    RELEASE,
    SECOND,
    archive,
    extract_to,
    make,
    make_durable,
    names,
    record_of,
)
from tests.support.needs import needs_root

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheadersd.cache.entry import Entry
    from kheadersd.cache.staging import Staging
    from kheadersd.sources.source import Archive

FOUR_ESSENTIALS = (
    "include/linux/kconfig.h",
    "include/linux/types.h",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
)


def reopen(directory: Path) -> tuple[list[Entry], dict[str, str]]:
    """What the next daemon finds."""
    cache = Cache(directory)
    try:
        found = cache.open()
        assert found.problems == []
        return found.entries, dict(found.cleared)
    finally:
        cache.close()


def finish(
    cache: Cache,
    staging: Staging,
    source: Archive,
    *,
    first: Callable[[], None] = lambda: None,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Extract and publish, with something happening before or between."""
    first()
    extracted = extract_to(staging, source)
    between()
    staging.publish(record_of(RELEASE, source, extracted), extracted.manifest)


def as_if_of_another_boot(entry: Entry) -> None:
    path = entry.directory / "entry.json"
    record = json.loads(path.read_text())
    record["boot_id"] = "00000000-0000-0000-0000-000000000000"
    path.write_text(json.dumps(record))


# An entry's life


def test_an_entry_appears_complete(cache: Cache) -> None:
    published = make(cache)
    entry = published.entry
    assert published.replaced is None
    assert cache.find(RELEASE) is entry
    assert cache.named(entry.name) is entry
    assert cache.entries() == (entry,)
    assert cache.total_bytes() == entry.record.bytes > 0
    assert entry.path == cache.directory / f"{RELEASE}-{entry.record.digest}" / "tree"
    assert (entry.path / "include/generated/utsrelease.h").read_text() == f'#define UTS_RELEASE "{RELEASE}"\n'
    assert entry.is_intact()
    assert entry.verify() == []
    assert names(cache.directory) == [entry.name]


def test_nobody_else_can_write_whatever_the_umask(directory: Path) -> None:
    before = os.umask(0)
    try:
        cache = Cache(directory)
        cache.open()
        make(cache)
        cache.close()
    finally:
        os.umask(before)
    for path in (directory, *directory.rglob("*")):
        assert not path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH), path
        assert path.stat().st_mode & stat.S_IROTH, path


def test_staging_is_nobody_elses_business_and_leaves_nothing(cache: Cache) -> None:
    with cache.stage(RELEASE, "a" * 64) as staging:
        assert stat.S_IMODE(staging.tree.parent.stat().st_mode) == 0o700
        (staging.tree / "half").mkdir()
        (staging.tree / "half/done.h").write_text("x")
    assert names(cache.directory) == []


def test_an_error_while_staged_leaves_nothing(cache: Cache) -> None:
    with pytest.raises(FileExistsError), cache.stage(RELEASE, "a" * 64) as staging:
        shutil.copytree("/proc/sys/kernel/random", staging.tree)
    assert names(cache.directory) == []


def test_the_record_must_be_of_what_was_staged(cache: Cache) -> None:
    with pytest.raises(ValueError, match="is not that of"), cache.stage(RELEASE, "a" * 64) as staging:
        finish(cache, staging, archive())
    assert names(cache.directory) == []


def test_the_newest_of_a_release_is_found(cache: Cache) -> None:
    older = make(cache, extra={"include/linux/a.h": b"a"}, at=NOON).entry
    newer = make(cache, extra={"include/linux/b.h": b"b"}, at=NOON + 1).entry
    other = make(cache, Release("5.10.0"), at=NOON + 2).entry
    assert cache.find(RELEASE) is newer
    assert set(cache.entries()) == {older, newer, other}
    assert cache.find(Release("4.19")) is None


def test_made_anew_under_the_same_name(cache: Cache) -> None:
    old = make(cache).entry
    inside = os.open(old.path, os.O_RDONLY)
    published = make(cache, at=NOON + 5)
    assert cache.find(RELEASE) is published.entry
    assert published.entry.path == old.path
    assert published.replaced is not None
    # A holder of a lease may still work in the old directory.
    assert os.stat("include/linux/kconfig.h", dir_fd=inside)
    os.close(inside)
    assert not old.is_intact()
    assert published.entry.is_intact()
    assert remove_tree(published.replaced) == []
    assert names(cache.directory) == [old.name]


@pytest.mark.parametrize("what", ["file", "empty directory", "link"])
def test_something_else_has_the_name(cache: Cache, what: str) -> None:
    target = cache.directory / f"{RELEASE}-{archive().digest}"
    if what == "file":
        target.write_text("in the way")
    elif what == "link":
        target.symlink_to("/etc")
    else:
        target.mkdir()
    published = make(cache)
    assert published.entry.is_intact()
    if published.replaced is not None:
        assert remove_tree(published.replaced) == []
    assert names(cache.directory) == [published.entry.name]
    assert Path("/etc/passwd").exists()


def test_the_name_is_there_at_every_moment_of_a_replacement(cache: Cache) -> None:
    entry = make(cache).entry
    header = entry.path / "include/linux/kconfig.h"
    missed = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal missed
        while not done.is_set():
            missed += not header.exists()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for turn in range(20):
        replaced = make(cache, at=NOON + turn).replaced
        assert replaced is not None
        remove_tree(replaced)
    done.set()
    watcher.join()
    assert missed == 0


def test_retired_at_once_and_removed_later(cache: Cache) -> None:
    entry = make(cache).entry
    (entry.directory / "pch").mkdir()
    (entry.directory / "pch/big").write_bytes(b"x" * 100_000)
    trash = cache.remove(entry)
    assert trash is not None
    assert not entry.path.exists()
    assert cache.find(RELEASE) is None
    assert entry not in cache
    assert remove_tree(trash) == []
    assert names(cache.directory) == []


def test_retiring_what_was_replaced_does_not_touch_the_new(cache: Cache) -> None:
    old = make(cache).entry
    new = make(cache)
    assert cache.remove(old) is None
    assert new.entry in cache
    assert new.entry.is_intact()
    assert new.replaced is not None
    remove_tree(new.replaced)


def test_retiring_what_has_gone(cache: Cache) -> None:
    entry = make(cache).entry
    shutil.rmtree(entry.directory)
    assert cache.remove(entry) is None
    assert cache.entries() == ()


def test_discard_while_somebody_else_removes_the_same(cache: Cache) -> None:
    many = {f"include/many{n % 40}/h{n}.h": b"x" for n in range(1500)}
    entry = make(cache, extra=many).entry
    trash = cache.remove(entry)
    assert trash is not None
    other = threading.Thread(target=shutil.rmtree, args=(trash,), kwargs={"ignore_errors": True})
    other.start()
    assert remove_tree(trash) == []
    other.join()
    assert not trash.exists()


def test_discard_of_what_is_not_there(cache: Cache) -> None:
    assert remove_tree(cache.directory / ".trash-x") == []


def test_discard_reports_what_cannot_be_removed(small_disk: Path) -> None:
    """A mount point cannot be removed."""
    (small_disk / "gone.h").write_text("x")
    (problem,) = remove_tree(small_disk)
    assert str(small_disk) in problem
    assert "busy" in problem
    assert names(small_disk) == []


# Use


def test_last_use_moves_once_a_minute(cache: Cache) -> None:
    entry = make(cache).entry
    assert entry.last_used == NOON
    assert entry.touch(NOON + 59 * SECOND) == NOON
    assert entry.touch(NOON + 60 * SECOND) == NOON + 60 * SECOND
    assert (entry.directory / "entry.json").stat().st_mtime_ns == (NOON + 60 * SECOND) * 1000
    assert entry.touch(NOON) == NOON  # the clock was set back
    assert entry.touch() > NOON
    assert entry.is_intact()


def test_last_use_survives_a_restart(directory: Path) -> None:
    cache = Cache(directory)
    cache.open()
    make(cache).entry.touch(NOON + 3600 * SECOND)
    cache.close()
    ((entry,), _) = reopen(directory)
    assert entry.last_used == NOON + 3600 * SECOND


def test_last_use_of_an_entry_that_has_gone(cache: Cache) -> None:
    entry = make(cache).entry
    shutil.rmtree(cache.directory)
    assert entry.touch(NOON + 3600 * SECOND) == NOON + 3600 * SECOND


def test_the_record_is_rewritten(cache: Cache, directory: Path) -> None:
    entry = make(cache).entry
    assert make_durable(entry)
    record = dataclasses.replace(entry.record, source="module-file", origin="/lib/modules/kheaders.ko")
    entry.write_record(record)
    assert entry.is_intact()
    cache.close()
    ((again,), _) = reopen(directory)
    assert again.record == record
    assert again.is_durable
    assert again.last_used == NOON


# What the check at each hand-out notices


@pytest.mark.parametrize(
    "gone",
    [
        "",
        "tree",
        "tree/include",
        "tree/arch",
        "tree/arch/x86/include/asm",
        "tree/arch/x86/include/asm/ptrace.h",
        "tree/include/linux",
        "tree/include/generated",
        "tree/include/net/sock.h",
        "tree/include/linux/other.h",
        *(f"tree/{name}" for name in FOUR_ESSENTIALS),
    ],
)
def test_deletions_are_noticed(cache: Cache, gone: str) -> None:
    entry = make(cache, extra={"include/linux/other.h": b"x", "include/net/sock.h": b"x"}).entry
    path = entry.directory / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert not entry.is_intact()
    assert entry.verify()


def test_an_emptied_tree_is_noticed(cache: Cache) -> None:
    entry = make(cache).entry
    for child in entry.path.iterdir():
        shutil.rmtree(child)
    assert not entry.is_intact()


@pytest.mark.parametrize("name", FOUR_ESSENTIALS)
def test_emptied_files_are_noticed(cache: Cache, name: str) -> None:
    entry = make(cache).entry
    os.truncate(entry.path / name, 0)
    assert not entry.is_intact()
    assert entry.verify()


DEEP = "arch/x86/include/asm/ptrace.h"  # none of those that are looked at each time


def by_descriptor(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(3)


def by_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[:1] = b"x"


def in_place_with_its_times(path: Path) -> None:
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [lambda path: os.truncate(path, 3), by_descriptor, by_mapping, in_place_with_its_times]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_content_is_noticed(cache: Cache, change: Callable[[Path], None]) -> None:
    entry = make(cache).entry
    assert entry.is_intact()
    change(entry.path / DEEP)
    assert not entry.is_intact()
    assert entry.verify()


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_content_changed_while_no_daemon_watched(
    cache: Cache, directory: Path, change: Callable[[Path], None], marked: bool
) -> None:
    entry = make(cache).entry
    if marked:
        assert make_durable(entry)
    cache.close()
    change(entry.path / DEEP)
    kept, cleared = reopen(directory)
    assert kept == []
    assert "ptrace.h" in cleared[entry.name]


def test_hidden_headers_are_noticed_and_other_attributes_do_not_matter(cache: Cache, directory: Path) -> None:
    entry = make(cache).entry
    assert make_durable(entry)
    header = entry.path / DEEP
    os.utime(header, (0, 0))
    header.chmod(FILE_MODE)
    assert entry.is_intact()
    cache.close()
    ((again,), cleared) = reopen(directory)
    assert (again.name, cleared) == (entry.name, {})
    cache.open()
    (entry,) = cache.entries()
    assert entry.is_intact()
    header.chmod(0)
    assert not entry.is_intact()
    assert entry.verify()


def test_deletion_by_age_is_noticed(cache: Cache) -> None:
    """systemd-tmpfiles sets a directory's times back after it removed something."""
    entry = make(cache).entry
    linux = entry.path / "include/linux"
    before = linux.stat()
    (linux / "types.h").unlink()
    os.utime(linux, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert linux.stat().st_mtime_ns == before.st_mtime_ns
    assert not entry.is_intact()


def test_a_tree_that_was_put_back_is_another(cache: Cache) -> None:
    entry = make(cache).entry
    copy = cache.directory.parent / "copy"
    shutil.copytree(entry.directory, copy, symlinks=True)
    shutil.rmtree(entry.directory)
    copy.rename(entry.directory)
    assert not entry.is_intact()


def test_deeper_damage_is_noticed_when_nobody_asked_for_a_while(cache: Cache) -> None:
    entry = make(cache, extra={"include/net/sock.h": b"x"}).entry
    assert entry.is_intact()
    (entry.path / "include/net/sock.h").unlink()
    time.sleep(0.12)
    assert not entry.is_intact()
    assert not entry.is_intact(), "once noticed, it stays noticed"


def test_reading_disturbs_nothing(cache: Cache) -> None:
    entry = make(cache).entry
    for path in entry.path.rglob("*"):
        if path.is_file():
            path.read_bytes()
    assert make_durable(entry)
    (entry.directory / "pch").mkdir()
    assert entry.is_intact()


def test_changed_content_is_noticed(cache: Cache) -> None:
    entry = make(cache, extra={"include/net/sock.h": b"good"}).entry
    path = entry.path / "include/net/sock.h"
    path.chmod(0o644)
    path.write_bytes(b"evil")
    assert not entry.is_intact()
    problems = entry.verify()
    assert len(problems) == 1
    assert "include/net/sock.h" in problems[0]


@pytest.mark.parametrize("damage", ["missing", "cut short", "another"])
def test_a_damaged_manifest_is_no_proof(cache: Cache, damage: str) -> None:
    entry = make(cache).entry
    manifest = entry.directory / "manifest"
    data = manifest.read_bytes()
    manifest.unlink()
    if damage == "cut short":
        manifest.write_bytes(data[:-10])
    elif damage == "another":
        other = make(cache, Release("5.10.0")).entry
        manifest.write_bytes((other.directory / "manifest").read_bytes())
    (problem,) = entry.verify()
    assert problem.startswith("manifest: ")


# Everything is removed while it is used


def test_the_whole_cache_is_removed(cache: Cache) -> None:
    entry = make(cache).entry
    shutil.rmtree(cache.directory)
    assert not entry.is_intact()
    assert entry.verify()
    assert cache.remove(entry) is None
    again = make(cache).entry
    assert again.is_intact()
    assert stat.S_IMODE(cache.directory.stat().st_mode) == 0o755
    with pytest.raises(DiskError, match="another kheadersd"):
        Cache(cache.directory).open()


def test_removed_while_staged(cache: Cache) -> None:
    source = archive()
    with (
        pytest.raises(Vanished, match="removed by another program"),
        cache.stage(RELEASE, source.digest) as staging,
    ):
        finish(cache, staging, source, first=lambda: shutil.rmtree(cache.directory))
    assert make(cache).entry.is_intact()


def test_removed_between_extraction_and_publishing(cache: Cache) -> None:
    source = archive()
    with pytest.raises(Vanished), cache.stage(RELEASE, source.digest) as staging:
        finish(cache, staging, source, between=lambda: shutil.rmtree(cache.directory))
    assert not cache.directory.exists()


def test_partly_removed_before_it_was_durable(cache: Cache) -> None:
    entry = make(cache, extra={"include/net/deep/er/sock.h": b"x"}).entry
    (entry.path / "include/net/deep/er/sock.h").unlink()
    assert make_durable(entry) is False
    assert not (entry.directory / "durable").exists()


def test_gone_before_it_was_durable(cache: Cache) -> None:
    entry = make(cache).entry
    shutil.rmtree(cache.directory)
    with pytest.raises(Vanished, match="sync the entry"):
        make_durable(entry)


# A full disk


def fill(directory: Path) -> None:
    with open(directory / "filler", "ab", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_no_space_to_stage(small_disk: Path) -> None:
    cache = Cache(small_disk, foreign=("filler",))
    cache.open()
    with contextlib.suppress(OSError):
        for n in itertools.count():
            (small_disk / f"filler{n}").mkdir()
    with pytest.raises(NoSpace, match=r"cannot make an entry: .* bytes are free"):
        cache.stage(RELEASE, "a" * 64)
    assert [name for name in names(small_disk) if not name.startswith("filler")] == []
    cache.close()


def test_no_space_to_publish(small_disk: Path) -> None:
    cache = Cache(small_disk, foreign=("filler",))
    cache.open()
    old = make(cache).entry
    source = archive(extra={"include/linux/new.h": b"x"})
    with (
        pytest.raises(NoSpace, match="cannot finish the entry"),
        cache.stage(RELEASE, source.digest) as staging,
    ):
        finish(cache, staging, source, between=lambda: fill(small_disk))
    assert names(small_disk) == [old.name, "filler"]
    assert old.is_intact()
    fill(small_disk)
    with pytest.raises(NoSpace, match="sync the entry"):
        make_durable(old)
    (small_disk / "filler").unlink()
    assert make_durable(old)
    cache.close()


# The next start


def test_a_durable_entry_is_taken_as_it_is(cache: Cache, directory: Path) -> None:
    entry = make(cache).entry
    assert make_durable(entry)
    as_if_of_another_boot(entry)
    (entry.directory / "manifest").unlink()  # it would be missed if it were looked at
    cache.close()
    ((again,), cleared) = reopen(directory)
    assert cleared == {}
    assert again.is_durable
    assert again.path == entry.path


def test_without_the_mark_in_the_same_boot(cache: Cache, directory: Path) -> None:
    entry = make(cache).entry
    cache.close()
    ((again,), cleared) = reopen(directory)
    assert cleared == {}
    assert not again.is_durable
    assert again.record == entry.record


def test_without_the_mark_after_another_boot(cache: Cache, directory: Path) -> None:
    intact, damaged = make(cache).entry, make(cache, Release("5.10.0")).entry
    for entry in (intact, damaged):
        as_if_of_another_boot(entry)
    # What a power failure does: the name is there and the content is not.
    os.truncate(damaged.path / "arch/x86/include/asm/ptrace.h", 0)
    cache.close()
    ((again,), cleared) = reopen(directory)
    assert again.name == intact.name
    assert not again.is_durable
    assert list(cleared) == [damaged.name]
    assert "ptrace.h" in cleared[damaged.name]
    assert names(directory) == [intact.name]


def test_disturbed_while_no_daemon_watched(cache: Cache, directory: Path) -> None:
    touched, damaged = make(cache).entry, make(cache, Release("5.10.0")).entry
    for entry in (touched, damaged):
        assert make_durable(entry)
    cache.close()
    (touched.path / "include/linux/new.h").write_text("x")
    (touched.path / "include/linux/new.h").unlink()
    (damaged.path / "include/linux/types.h").unlink()
    ((again,), cleared) = reopen(directory)
    assert again.name == touched.name
    assert not again.is_durable, "its seal is no longer that of the mark, which has to be made again"
    assert "types.h" in cleared[damaged.name]


def test_files_missing_in_the_same_boot(cache: Cache, directory: Path) -> None:
    entry = make(cache).entry
    (entry.path / "arch/x86/include/asm/ptrace.h").unlink()
    cache.close()
    kept, cleared = reopen(directory)
    assert kept == []
    assert "ptrace.h" in cleared[entry.name]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "entry.json cannot be used"),
        ("[]", "not a JSON object"),
        ("\0" * 4096, "entry.json cannot be used"),
        ("[" * 50_000, "entry.json cannot be used"),
        ('{"version": "3"}', "its version is '3'"),
        ('{"version": 3}', "missing or unknown keys"),
    ],
)
def test_records_that_are_nonsense(cache: Cache, directory: Path, content: str, reason: str) -> None:
    entry = make(cache).entry
    (entry.directory / "entry.json").write_text(content)
    cache.close()
    kept, cleared = reopen(directory)
    assert kept == []
    assert reason in cleared[entry.name]
    assert names(directory) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("release", "../../etc"),
        ("release", 5),
        ("digest", "A" * 64),
        ("files", -1),
        ("files", True),
        ("bytes", 2**64),
        ("extracted_at", 1.5),
        ("source", None),
        ("manifest_sha256", ""),
        ("surprise", 1),
    ],
)
def test_records_with_a_bad_value(cache: Cache, directory: Path, key: str, value: object) -> None:
    entry = make(cache).entry
    path = entry.directory / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    cache.close()
    _, cleared = reopen(directory)
    assert key in cleared[entry.name]


def test_an_entry_under_another_name(cache: Cache, directory: Path) -> None:
    entry = make(cache).entry
    name = "5.10-" + "a" * 64
    entry.directory.rename(directory / name)
    (directory / ("5.11-" + "a" * 64)).write_text("not a directory")
    cache.close()
    kept, cleared = reopen(directory)
    assert kept == []
    assert f"its record is that of {entry.name}" in cleared[name]
    assert "not a directory" in cleared["5.11-" + "a" * 64]


def test_what_a_crash_left_is_cleared(directory: Path) -> None:
    for name in (".staging-1", ".trash-1"):
        (directory / name / "tree/include/linux").mkdir(parents=True)
        (directory / name / "tree/include/linux/half.h").write_text("x")
    (directory / ".trash-1/tree/link").symlink_to("/etc")
    (directory / ".trash-1").chmod(0)
    (directory / ("6.1-" + "a" * 64)).mkdir()
    directory.chmod(0o755)
    kept, cleared = reopen(directory)
    assert kept == []
    assert sorted(cleared) == [".staging-1", ".trash-1", "6.1-" + "a" * 64]
    assert names(directory) == []
    assert Path("/etc/passwd").exists()


def test_strangers_are_left_alone(directory: Path) -> None:
    for name in (".packages", ".leases", "lost+found", "notes", "6.1-abc", "bad name-" + "a" * 64):
        (directory / name).mkdir(parents=True)
    cache = Cache(directory)
    found = cache.open()
    cache.close()
    assert found.unknown == ["6.1-abc", "bad name-" + "a" * 64, "notes"]
    assert found.cleared == []
    assert len(names(directory)) == 6


# The directory itself


def test_two_daemons_do_not_share(cache: Cache, directory: Path) -> None:
    other = Cache(directory)
    with pytest.raises(DiskError, match="another kheadersd uses the cache directory"):
        other.open()
    cache.close()
    other.open()
    other.close()


def test_closed_twice(cache: Cache) -> None:
    cache.close()
    cache.close()


def test_directories_that_are_not_safe(directory: Path) -> None:
    elsewhere = directory.parent / "elsewhere"
    elsewhere.mkdir()
    directory.symlink_to(elsewhere)
    with pytest.raises(DiskError, match="is a symbolic link"):
        Cache(directory).open()
    directory.unlink()
    directory.write_text("x")
    with pytest.raises(DiskError, match="is not a directory"):
        Cache(directory).open()
    directory.unlink()
    directory.mkdir()
    for mode in (0o777, 0o775, 0o1777):
        directory.chmod(mode)
        with pytest.raises(DiskError, match=f"has mode {mode:04o}"):
            Cache(directory).open()


@needs_root("giving a directory away takes root")
def test_somebody_elses_directory(directory: Path) -> None:
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    with pytest.raises(DiskError, match="belongs to user 65534"):
        Cache(directory).open()


def test_a_removed_directory_that_cannot_be_made_again(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the sandbox of the unit, whose mount of the directory has gone with the directory."""
    lost: list[Lost] = []
    cache = Cache(directory)
    cache.on_lost = lost.append
    cache.open()
    shutil.rmtree(directory)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", raising(OSError(errno.EROFS, "Read-only file system")))
        for count in (1, 2):
            with pytest.raises(Lost, match="was removed and kheadersd may not make it: Read-only") as caught:
                cache.lock()
            assert len(lost) == count
            assert lost[-1] is caught.value
        directory.symlink_to(directory.parent)
        with pytest.raises(DiskError, match="cannot use"):
            cache.lock()
        assert len(lost) == 2
        directory.unlink()
    cache.lock()
    cache.close()


def raising(error: OSError) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_a_directory_that_cannot_be_made() -> None:
    with pytest.raises(DiskError, match="cannot use the cache directory /proc/nothing/cache"):
        Cache(Path("/proc/nothing/cache")).open()
