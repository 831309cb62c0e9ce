"""Where what takes long to make or to fetch is kept between runs, outside the repository."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

_KEPT = 3
"""So many of a kind stay, unless told otherwise: the present one, and those of other branches."""


def directory(kind: str) -> Path:
    """``${XDG_CACHE_HOME:-~/.cache}/kheadersd-tests/<kind>``, made now if it is missing."""
    result = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kheadersd-tests" / kind
    result.mkdir(parents=True, exist_ok=True)
    return result


@contextlib.contextmanager
def locked(base: Path, name: str) -> Iterator[None]:
    """Hold a directory's lock of this name: what several processes want at once is made by one of them."""
    with (base / f".lock-{name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kept(kind: str, key: str, make: Callable[[Path], None], *, keep: int = _KEPT) -> Path:
    """The directory of the kind that is called ``key``, made now if it was not made before.

    Several processes at once make it once. Of a kind stay those that were used last.

    Args:
        make: fills an empty directory; when it raises, nothing is kept.
        keep: how many of the kind stay.
    """
    base = directory(kind)
    result = base / key
    with locked(base, key):
        if not result.exists():
            with tempfile.TemporaryDirectory(prefix=".making-", dir=base) as scratch:
                made = Path(scratch) / key
                made.mkdir()
                make(made)
                made.rename(result)
        os.utime(result)
    with locked(base, "all"):
        _remove_older(base, keep)
    return result


def _remove_older(base: Path, keep: int) -> None:
    entries = [entry for entry in base.iterdir() if not entry.name.startswith(".")]
    for old in sorted(entries, key=lambda entry: entry.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(old)
        (base / f".lock-{old.name}").unlink(missing_ok=True)


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
