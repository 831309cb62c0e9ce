"""An archive that is cut short is none that GNU tar takes for complete."""

from __future__ import annotations

import io
import os
import random
import select
import subprocess
import tarfile
import threading

import pytest

from kheadersd.cache import tar_writer
from kheadersd.cache.cache import Cache
from kheadersd.cache.entry import Entry
from kheadersd.errors import Corrupt
from kheadersd.system.tasks import Cancelled
from tests.support.made_up_cache import make


def some_files() -> dict[str, bytes]:
    """Files of many sizes, with blocks, names and directories that are hard to divide between."""
    noise = random.Random(1)
    sizes = [0, 1, 511, 512, 513, 1024, 4095, 4096, 9000, 70_000, *(noise.randrange(3000) for _ in range(60))]
    files = {f"include/d{number}/f{number}.h": noise.randbytes(size) for number, size in enumerate(sizes)}
    return files | {f"include/{'long' * 24}/{'n' * 40}{number}.h": b"x" * 600 for number in range(6)}


@pytest.fixture
def entry(cache: Cache) -> Entry:
    return make(cache, extra=some_files()).entry


def tar(archive: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["tar", "-t"], input=archive, capture_output=True, check=False)


def exported(entry: Entry, *, cancel_after: int | None = None) -> tuple[bytes, Exception | None]:
    """What a reader gets, and what the writer raises."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    got = bytearray()
    cancelled = threading.Event()

    def read() -> None:
        while piece := os.read(reader, 3000):
            got.extend(piece)
            if cancel_after is not None and len(got) > cancel_after:
                cancelled.set()

    thread = threading.Thread(target=read)
    thread.start()
    error: Exception | None = None
    try:
        tar_writer.write_archive(entry, writer, cancelled)
    except (Corrupt, Cancelled) as raised:
        error = raised
    os.close(writer)
    thread.join()
    os.close(reader)
    return bytes(got), error


def test_what_is_written_is_whole(entry: Entry) -> None:
    archive, error = exported(entry)
    assert error is None
    assert len(archive) % 10_240 == 0
    assert tar(archive).returncode == 0
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        for name, content in some_files().items():
            file = opened.extractfile(name)
            assert file is not None
            assert file.read() == content


@pytest.mark.parametrize("at", ["include/d0/f0.h", "include/d1/f1.h", "include/d9/f9.h"])
def test_where_a_file_is_damaged_tar_fails(entry: Entry, at: str) -> None:
    (entry.path / at).unlink()
    archive, error = exported(entry)
    assert isinstance(error, Corrupt)
    assert tar(archive).returncode == 2


def test_where_all_is_damaged_tar_fails(entry: Entry) -> None:
    manifest = entry.directory / "manifest"
    manifest.write_bytes(manifest.read_bytes() + b"x")
    archive, error = exported(entry)
    assert isinstance(error, Corrupt)
    assert len(archive) == 512
    assert tar(archive).returncode == 2


def test_what_is_cancelled_is_not_taken_for_complete(entry: Entry) -> None:
    for after in (0, 10_000, 50_000):
        archive, error = exported(entry, cancel_after=after)
        if error is not None:
            assert tar(archive).returncode == 2


def test_wherever_the_daemon_is_killed_tar_fails(entry: Entry) -> None:
    pieces = [bytes(piece) for piece in tar_writer._pieces(entry)]
    ends = [sum(map(len, pieces[:count])) for count in range(1, len(pieces))]
    archive = b"".join(pieces)
    assert len(ends) > 40
    assert max(map(len, pieces[:-1])) <= select.PIPE_BUF, "it is written as a whole or not at all"
    for end in ends:
        done = tar(archive[:end])
        assert done.returncode == 2, (end, done.stderr)


def test_what_cannot_be_divided_is_written_nevertheless(cache: Cache) -> None:
    entry = make(cache, extra={f"include/e/{number:03}.h": b"" for number in range(400)}).entry
    pieces = [len(piece) for piece in tar_writer._pieces(entry)]
    assert max(pieces) > 1 << 16 > select.PIPE_BUF
