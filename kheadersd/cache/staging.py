"""Making an entry out of sight, and giving it its name in one step."""

from __future__ import annotations

import dataclasses
import errno
import os
from typing import TYPE_CHECKING, Self

from ..errors import KheadersError
from ..system import disk
from . import pch_files as pch
from .entry import Entry, Record, set_last_used
from .seal import Seal

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from .manifest import Manifest

STAGING = ".staging-"
TRASH = ".trash-"
ASIDE = ".aside-"


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A new entry, which `Cache.insert` makes known.

    Attributes:
        replaced: where the directory is that had the name before, for `Cache.discard`; it may wait there
            for as long as somebody holds a lease. None if there was none.
    """

    entry: Entry
    replaced: Path | None


class Staging:
    """A place to make an entry in; leaving its ``with`` block removes it unless it was published.

    Attributes:
        name: what the entry will be called.
        tree: the directory to extract to.
        tree_fd: the same, opened; closed on leaving.
    """

    def __init__(self, parent: Path, name: str) -> None:
        """Make the place; blocking.

        Raises:
            OSError: it cannot be made; nothing is left.
        """
        self.name = name
        self._path = parent / (STAGING + os.urandom(8).hex())
        self.tree = self._path / "tree"
        self._target = parent / name
        self._published = False
        self._path.mkdir(mode=0o700)
        try:
            self.tree.mkdir()
            os.chmod(self.tree, 0o755)
            self.tree_fd = os.open(self.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except BaseException:
            disk.remove_tree(self._path)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Whatever failed then failed because of this, and works if it is done again.
            vanished = isinstance(error, KheadersError) and not self._is_there()
        finally:
            self.close()
        if vanished:
            raise disk.Vanished(
                f"{self._path} was removed by another program while headers were made in it; ask again"
            ) from error

    def close(self) -> None:
        """What leaving the block does; blocking."""
        os.close(self.tree_fd)
        if not self._published:
            disk.remove_tree(self._path)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.lstat(self.tree), os.fstat(self.tree_fd))
        except OSError:
            return False

    def publish(self, record: Record, manifest: Manifest) -> Published:
        """See `Cache.publish`."""
        import hashlib

        if record.name != self.name:
            raise ValueError(f"the record of {record.name} is not that of {self.name}")
        encoded = manifest.encode()
        digest = hashlib.sha256(encoded).hexdigest()
        record = dataclasses.replace(record, boot_id=disk.boot_id(), manifest_sha256=digest)
        with disk.explained("finish the entry", self._path.parent):
            if not self._is_there():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.tree))
            disk.write_new(self._path / "manifest", encoded)
            disk.write_new(self._path / "entry.json", record.encode())
            pchs = pch.carry_over(self._target, self._path)
            set_last_used(self._path, record.extracted_at)
            os.chmod(self._path, 0o755)
            inode = os.lstat(self._path).st_ino
            seal = Seal.take(self.tree).at(self._target / "tree")
            replaced = self._put_in_place()
        self._published = True
        entry = Entry(record, self._target, inode, seal, last_used=record.extracted_at, durable=False)
        entry.pchs = pchs
        return Published(entry, replaced)

    def _put_in_place(self) -> Path | None:
        try:
            os.rename(self._path, self._target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            return None
        trash = trash_name(self._path.parent)
        swap(self._path, self._target)
        os.rename(self._path, trash)
        return trash


def swap(one: Path, other: Path) -> None:
    """Exchange two names, in one step where the file system can.

    Raises:
        OSError: one of them is not there, or the like.
    """
    if not disk.exchange(one, other):
        aside = trash_name(one.parent)
        os.rename(other, aside)
        os.rename(one, other)
        os.rename(aside, one)


def trash_name(parent: Path) -> Path:
    """A new name for something on its way out."""
    return parent / (TRASH + os.urandom(8).hex())


def aside_name(parent: Path) -> Path:
    """A new name for an entry of another version."""
    return parent / (ASIDE + os.urandom(8).hex())
