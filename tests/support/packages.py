"""What the tests of all package managers look at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from kheadersd.errors import Corrupt
from kheadersd.release import Release
from kheadersd.sources.build_tree import Unusable
from kheadersd.sources.source import Archive
from kheadersd.sources.usable import check_usable
from tests.support.directories import for_all_users
from tests.support.extracting import extract_archive


class _Key(Protocol):
    def close(self) -> None: ...


K = TypeVar("K", bound=_Key)

WHOLE = [
    "arch/x86/include/asm/ptrace.h",
    "arch/x86/include/generated/asm/unistd.h",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
    "include/linux/kconfig.h",
    "include/linux/types.h",
]
"""The headers of the packages that the tests make."""


def silent(stage: str, fraction: float) -> None:
    """A report that is dropped, after a look at it."""
    assert stage in ("downloading", "updating")
    assert 0 <= fraction <= 1


def files_of(archive: Archive, release: Release) -> list[str]:
    """Extract, check as the daemon does, and list the files."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        extract_archive(tree, archive)
        check_usable(tree, tree, release)
        return sorted(str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_symlink() or not p.is_dir())


def refusal(archive: Archive, release: Release) -> str:
    """Why the headers of an archive are not taken."""
    try:
        files_of(archive, release)
    except (Corrupt, Unusable) as error:
        return error.message
    raise AssertionError("they are taken")


def left_in(directory: Path) -> list[str]:
    """What is left of runs in the directory of the package managers."""
    return sorted(path.name for path in directory.rglob("run-*")) if directory.exists() else []


def state_of(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """All files below a root, with mode, time of change and content."""
    return {
        str(path): (status.st_mode, status.st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
        for status in [path.lstat()]
    }


def processes_of(directory: Path) -> list[str]:
    """The command lines of the processes that have a directory, or what is below it, in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in line and path.parent.name != str(os.getpid()):
                found.append(line)
    return found


@contextlib.contextmanager
def two_keys(make: Callable[..., K]) -> Iterator[tuple[K, K]]:
    """Two keys of a kind, of which a host trusts the first."""
    with for_all_users("kh-key-") as directory:
        keys = (make(directory), make(directory, "other"))
        yield keys
        for key in keys:
            key.close()


async def check_cancelling(task: asyncio.Task[Any], work: Path) -> None:
    """Check that a task that is cancelled ends so, and leaves no file and no process."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left_in(work) == []
    assert processes_of(work) == []


async def wait_for(path: Path) -> None:
    """Wait until another process has made a file."""
    async with asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.02)


def put_before(monkeypatch: pytest.MonkeyPatch, directory: Path, name: str, script: str) -> None:
    """Have a shell script run instead of the program of this name."""
    programs = directory / "bin"
    programs.mkdir(exist_ok=True)
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(0o755)
    if str(programs) not in os.environ["PATH"]:
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
