"""Where what takes minutes to make is kept between runs, outside the repository."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

_KEPT = 3
"""So many of a kind stay: the present one, and those of other branches."""


def kept(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The directory of what is called ``key``, made now if it was not made before.

    It is in ``${XDG_CACHE_HOME:-~/.cache}/kheadersd-tests/guest/<kind>``. Several runs at once make it once.

    Args:
        make: fills an empty directory; when it raises, nothing is kept.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kheadersd-tests/guest" / kind
    base.mkdir(parents=True, exist_ok=True)
    result = base / key
    with (base / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=base) as scratch:
                made = Path(scratch) / key
                made.mkdir()
                make(made)
                made.rename(result)
        os.utime(result)
        _forget_older(base)
    return result


def _forget_older(base: Path) -> None:
    entries = [entry for entry in base.iterdir() if not entry.name.startswith(".")]
    for old in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(old)


def key_of(*parts: str | bytes | Path) -> str:
    """A name that changes with every one of the texts, the bytes, or the contents of the files."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, Path) else part
        data = data.encode() if isinstance(data, str) else data
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()[:16]


def files_below(directory: Path, leave_out: Iterable[str] = ()) -> list[Path]:
    """All files of a tree in order, without caches, hidden ones, and the names at its top to leave out."""
    found = []
    for path in sorted(directory.rglob("*")):
        parts = path.relative_to(directory).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
        if path.is_file() and not hidden and parts[0] not in leave_out:
            found.append(path)
    return found
