# SPDX-License-Identifier: LGPL-2.1-or-later
"""rpm's own tools: they verify a package with the host's keys, and turn it into a tar archive.

dnf checks signatures when it installs, never when it downloads. So rpmkeys verifies each package, with a
key database of its own that has nothing but the host's keys.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Corrupt, KheadersError, NoSpace
from ..formats.compressed import GZIP_MAGIC
from ..formats.deb import HeldFile, open_part
from ..formats.decompress import chunks
from ..system.files import read_file
from ..system.printable import printable
from ..system.tasks import in_thread
from .package_work import MAX_INDEX, disk_failure, summary
from .source import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..host.host import Host
    from ..sandbox.command import Finished
    from .package_work import PackageWork

TOOLS = ("rpm", "rpmkeys", "rpm2archive")
MAX_UNPACKED = MAX_INDEX
"""Bytes of a package's tar archive; a real one has some 100 MiB."""

# The ends of the lines of "rpmkeys --checksig --verbose" that are no news beside others.
_GOOD = (": OK", ".rpm:")
_ABSENT = ": NOTFOUND"

_MAX_KEYS = 16 << 20  # bytes of all keys that a host has; they have some 3 KiB each
_DATABASE_FILES = ("rpmdb.sqlite", "Packages.db", "Packages")
_DATABASES = ("usr/lib/sysimage/rpm", "var/lib/rpm")
_MACRO = "%"


class RpmTools:
    """Runs rpm's commands.

    Args:
        host: whose keys are trusted.
    """

    def __init__(self, host: Host, work: PackageWork) -> None:
        self._host = host
        self._work = work

    async def verify(self, files: Sequence[Path], key_files: Sequence[Path], scratch: Path) -> None:
        """Verify digests and signatures of packages.

        Args:
            key_files: keys that are trusted, besides those that the host's own database has.

        Raises:
            Corrupt: one is not signed, not by one of these keys, or it was changed since.
            Timeout: rpm took too long.
        """
        for file in files:
            if _MACRO in str(file):
                raise Corrupt(f"{printable(file.name)} has a %, which rpm takes for a macro: not read")
        number, complaint = await self.import_keys(scratch / "keys", key_files, scratch)
        trusted = f"it has {number} files with the host's keys" if number else "the host has no keys"
        words = ["rpmkeys", "--dbpath", str(scratch / "keys"), "--define", "_pkgverify_level all"]
        for file in files:
            done = await self._work.run([*words, "--checksig", "--verbose", str(file)], scratch)
            if done.status == 0:
                continue
            printed = done.stdout + done.stderr
            bad = summary(printed, lambda line: not line.endswith((*_GOOD, _ABSENT)))
            absent = summary(printed, lambda line: line.endswith(_ABSENT))
            told = bad or absent or f"it ended with status {done.status}"
            raise Corrupt(
                f"rpmkeys did not verify {printable(file.name)}: "
                + "; ".join(filter(None, (told, trusted, complaint)))
            )

    async def import_keys(self, database: Path, key_files: Sequence[Path], scratch: Path) -> tuple[int, str]:
        """Make a database of keys: those of files, and those that the host's own database has.

        Returns:
            The number of files with keys, and rpm's complaints.

        Raises:
            Timeout: rpm took too long.
        """
        await in_thread(self._make, database)
        # rpm 4.20 runs what a macro in the name of a file says.
        named = [key for key in key_files if _MACRO not in str(key)]
        keys = [*named, *await self._imported(scratch)]
        if not keys:
            return 0, ""
        words = ["rpmkeys", "--dbpath", str(database), "--import", *map(str, keys)]
        return len(keys), summary((await self._work.run(words, scratch)).stderr)

    async def full_name(self, file: Path, scratch: Path) -> str:
        """What a verified package says that it is, as `RpmPackage.full_name`.

        Raises:
            Corrupt: rpm cannot read it.
        """
        form = "%{NAME}-%{EPOCHNUM}:%{VERSION}-%{RELEASE}.%{ARCH}"
        words = ["rpm", "--dbpath", str(scratch / "keys"), "--query", f"--queryformat={form}"]
        done = await self._work.run([*words, "--package", "--", str(file)], scratch)
        if done.status != 0:
            raise Corrupt(f"rpm cannot read {printable(file.name)}: {summary(done.stderr)}")
        return done.stdout

    async def layer(self, file: Path, place: Callable[[str], str | None], scratch: Path) -> Layer:
        """Unpack a verified package; the layer holds it open.

        Args:
            place: as `Layer.place`.

        Raises:
            Corrupt, NoSpace, LimitsExceeded: as `unpack`.
        """
        tar = scratch / f"{file.name}.tar"
        await self.unpack(file, tar, scratch)
        unpacked = HeldFile(tar)
        data = functools.partial(open_part, unpacked, 0, unpacked.size)
        with data() as start:
            is_compressed = start.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        size = 0 if is_compressed else unpacked.size
        return Layer(file.name, functools.partial(chunks, data, file.name), place, size)

    async def unpack(self, file: Path, target: Path, scratch: Path) -> None:
        """Write the files of a verified package to a tar archive, which may be compressed.

        Raises:
            Corrupt: rpm2archive cannot read it.
            NoSpace, LimitsExceeded: the archive does not fit, or is larger than accepted.
        """
        # It writes to a pipe or a file only if it reads one. Before rpm 4.17 it has no option, and uses gzip.
        script = (
            "rpm2archive --help 2>/dev/null | grep -q nocompression && option=--nocompression; "
            'exec rpm2archive $option - <"$1"'
        )
        done = await self._printed_to(target, ["sh", "-c", script, "sh", str(file)], scratch, MAX_UNPACKED)
        if done.status != 0:
            raise self._not_unpacked(file, done.status, done.stderr)

    async def _printed_to(self, target: Path, words: Sequence[str], scratch: Path, most: int) -> Finished:
        """Run a command whose standard output becomes a new file of at most ``most`` bytes."""
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return await self._work.run(words, scratch, max_file=most, stdout=descriptor)
        finally:
            os.close(descriptor)

    def _not_unpacked(self, file: Path, status: int, complaints: str) -> KheadersError:
        what = f"{printable(file.name)} cannot be unpacked by rpm2archive"
        if failure := disk_failure(what, complaints):
            return failure
        free = os.statvfs(self._work.directory)
        if free.f_bavail == 0:
            return NoSpace(f"{what}, the disk is full: {summary(complaints)}")
        return Corrupt(f"{what}: {summary(complaints) or f'it ended with status {status}'}")

    async def _imported(self, scratch: Path) -> list[Path]:
        """A file with the keys that the host's own database has, which its administrator accepted."""
        for name in _DATABASES:
            try:
                directory = self._host.inside(self._host.path(name))
            except OSError:
                continue
            # rpm would make a database where there is none.
            if any((directory / file).is_file() for file in _DATABASE_FILES):
                break
        else:
            return []
        # rpm expands macros in the option, which run programs: an image can have a directory of such a name.
        own = await in_thread(self._directory_in, scratch)
        link = own / "database"
        link.symlink_to(directory)
        database = ["--dbpath", str(link)]
        for number, words in enumerate(
            (
                ["rpm", *database, "--query", r"--queryformat=%{DESCRIPTION}\n", "gpg-pubkey"],
                ["rpmkeys", *database, "--export"],  # rpm 6, where keys can be in files of their own
            )
        ):
            file = own / f"imported-{number}.asc"
            done = await self._printed_to(file, words, scratch, _MAX_KEYS)
            if done.status == 0 and b"BEGIN PGP" in await in_thread(read_file, file, _MAX_KEYS):
                return [file]
        return []

    @staticmethod
    def _make(directory: Path) -> None:
        directory.mkdir(parents=True)

    @staticmethod
    def _directory_in(scratch: Path) -> Path:
        return Path(tempfile.mkdtemp(prefix="imported-", dir=scratch))
