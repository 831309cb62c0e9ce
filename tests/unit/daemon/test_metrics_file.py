"""The file with metrics: written in one step, not too often, and gone at the end."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheadersd.daemon.metrics_file import MetricsFile
from kheadersd.events import Event
from tests.support.clients import eventually
from tests.support.in_process import Kept


class Content:
    """What is to be written, and how often that was asked for."""

    def __init__(self) -> None:
        self.text = "one 1\n"
        self.asked = 0

    def __call__(self) -> str:
        self.asked += 1
        return self.text


@pytest.fixture
def content() -> Content:
    return Content()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kheadersd.prom"


@pytest.fixture
async def file(content: Content, journal: Kept) -> AsyncIterator[MetricsFile]:
    made = MetricsFile(content, journal, pause=0.02)
    yield made
    await made.close()


def has(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


async def test_every_user_can_read_it(file: MetricsFile, path: Path) -> None:
    before = os.umask(0o077)
    try:
        await file.configure(path)
        await eventually(path.exists)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


async def test_another_file_takes_its_name(file: MetricsFile, content: Content, path: Path) -> None:
    await file.configure(path)
    await eventually(path.exists)
    reader = os.open(path, os.O_RDONLY)
    content.text = "two 2\n"
    file.on_change()
    await eventually(lambda: has(path, "two 2\n"))
    assert os.read(reader, 100) == b"one 1\n", "a reader has all of one state"
    os.close(reader)
    assert os.listdir(path.parent) == [path.name]


async def test_many_changes_are_one_write(file: MetricsFile, content: Content, path: Path) -> None:
    await file.configure(path)
    await eventually(path.exists)
    for number in range(1000):
        content.text = f"number {number}\n"
        file.on_change()
    await eventually(lambda: has(path, "number 999\n"))
    assert content.asked == 2


async def test_what_is_the_same_is_not_written(file: MetricsFile, content: Content, path: Path) -> None:
    await file.configure(path)
    await eventually(path.exists)
    inode = os.stat(path).st_ino
    file.on_change()
    await eventually(lambda: content.asked == 2)
    file.on_change()
    await eventually(lambda: content.asked == 3)
    assert os.stat(path).st_ino == inode


async def test_it_goes_with_the_daemon(file: MetricsFile, path: Path) -> None:
    await file.configure(path)
    await eventually(path.exists)
    await file.close()
    assert os.listdir(path.parent) == []


async def test_another_path(file: MetricsFile, path: Path) -> None:
    await file.configure(path)
    await eventually(path.exists)
    other = path.with_name("other.prom")
    await file.configure(other)
    await eventually(other.exists)
    await file.configure(None)
    assert os.listdir(path.parent) == []
    file.on_change()
    await asyncio.sleep(0)
    assert os.listdir(path.parent) == []


async def test_a_failure_is_told_once(file: MetricsFile, content: Content, journal: Kept, path: Path) -> None:
    missing = path.parent / "missing" / path.name
    await file.configure(missing)
    await eventually(lambda: journal.of(Event.METRICS_FAILED))
    file.on_change()
    await eventually(lambda: content.asked > 1)
    os.mkdir(missing.parent)
    file.on_change()
    await eventually(missing.exists)
    (told,) = journal.of(Event.METRICS_FAILED)
    assert str(missing) in told
    assert "TextFile=" in told
    assert "No such file" in told


async def test_a_link_is_replaced_and_not_followed(file: MetricsFile, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    os.symlink(target, path)
    os.symlink(target, path.with_name(f".{path.name}.new"))
    await file.configure(path)
    await eventually(lambda: not path.is_symlink())
    assert not target.exists()
