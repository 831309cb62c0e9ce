# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pushes what the daemon has made from the headers or the BTF of a release, an artifact for each key.

A tag of its own for each key lets hosts with other compilers push to the same repository at the same time,
and a host that needs one ask for exactly that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..cache import manifest, records
from ..cache.entry import Record
from ..cache.pch_files import load
from ..errors import Corrupt, KheadersError
from ..formats import oci
from ..names import REGISTRY
from ..sources.source import NotFound
from ..system.disk import explained
from ..system.files import read_file
from ..system.tasks import in_thread
from ..vmlinux.generate import NAME
from .artifact import write_file_layout
from .signing import signing_options
from .upload import Pushed, present, pushing_skopeo, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ..release import Release
    from ..repository import Repository
    from .signing import Signing


@dataclasses.dataclass(frozen=True, slots=True)
class MadeFile:
    """A file that the daemon has made.

    Attributes:
        key: of what it is, 64 hex digits.
        sha256: of what was written.
        annotations: what is said of it.
        is_fetched: whether the daemon has it from a registry.
    """

    kind: oci.Kind
    key: str
    path: Path
    sha256: str
    annotations: Mapping[str, str]
    is_fetched: bool

    def __str__(self) -> str:
        return str(self.path)

    @property
    def tag(self) -> str:
        """The tag of its artifact."""
        return oci.tag_of_file(self.kind, self.key)

    def write(self, directory: Path) -> oci.Manifest:
        """Write its artifact as an OCI layout.

        Raises:
            KheadersError: it cannot be read, was changed, or is too large.
        """
        try:
            data = read_file(self.path, oci.MAX_FILE, follow=False)
        except OSError as error:
            raise KheadersError(f"it cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise KheadersError("it is not what was written; kheadersctl verify tells more")
        with explained("write the artifact", directory.parent):
            return write_file_layout(self.kind, {oci.KEY: self.key, **self.annotations}, data, directory)


@dataclasses.dataclass(frozen=True, slots=True)
class FilesPush:
    """A push of files.

    Attributes:
        key: the file with the private key that signs them.
        replace: whether what the registry has is replaced in any case.
        on_failure: called with what is wrong with one of them; the others are pushed.
    """

    repository: Repository
    key: Path
    replace: bool
    on_failure: Callable[[str], None]

    async def run(self, files: Sequence[MadeFile], directory: Path) -> tuple[Pushed, ...]:
        """Push files, unless the registry has them; what they have become.

        Args:
            directory: a private one.

        Raises:
            NotFound: the registry cannot be reached.
            KheadersError: the key cannot be used.
        """
        skopeo, done = pushing_skopeo(), []
        async with contextlib.AsyncExitStack() as stack:
            signing: Signing | None = None
            for file in {file.tag: file for file in files}.values():
                found = None if self.replace else await present(skopeo, self.repository, file.tag, file.kind)
                if found is not None:
                    done += self._there(file, *found)
                    continue
                if signing is None:
                    keyring = directory / "files-gnupg"
                    keyring.mkdir(mode=0o700)
                    options = signing_options(self.key, keyring, "PushPchSigningKey=")
                    signing = await stack.enter_async_context(options)
                layout = directory / file.key
                try:
                    manifest = await in_thread(file.write, layout)
                    done.append(await send(skopeo, layout, manifest, self.repository, file.tag, signing))
                except (NotFound, KheadersError) as error:
                    self.on_failure(f"{file} is not pushed: {error.message}")
        return tuple(done)

    def _there(self, file: MadeFile, digest: str, manifest: oci.Manifest | None) -> list[Pushed]:
        """What the registry has for a key; [] if that is something else."""
        if manifest is None or manifest.annotations[oci.KEY] != file.key:
            self.on_failure(f"{self.repository.name}:{file.tag} is something else; --replace replaces it")
            return []
        return [Pushed(self.repository, file.tag, digest, is_new=False, size=manifest.layer.size)]


def pchs_of(release: Release, entries: Iterable[Mapping[str, object]]) -> list[MadeFile]:
    """The precompiled headers of a release in the daemon's cache.

    Args:
        entries: all of the daemon's, as Describe shows them.
    """
    found = []
    for directory in _directories(release, entries):
        for pch in load(directory, remove_damaged=False).values():
            record = pch.record
            compiler = f"{Path(record.compiler).name} {record.compiler_version}"
            said = {oci.RELEASE: release, oci.PROFILE: record.profile, oci.COMPILER: compiler}
            found.append(MadeFile(oci.PCH, record.key, pch.path, record.sha256, said, bool(record.origin)))
    return found


def types_of(release: Release, entries: Iterable[Mapping[str, object]]) -> list[MadeFile]:
    """The vmlinux.h of a release in the daemon's cache, as `pchs_of`."""
    found = []
    for directory in _directories(release, entries):
        try:
            record, _ = records.read(directory / "entry.json", Record.decode)
            if not record.btf or not record.headers_kept:
                continue
            item = manifest.read(directory, record.manifest_sha256).entries[NAME]
        except (Corrupt, OSError, KeyError, records.OtherVersion):
            continue  # removed or damaged meanwhile
        said = {oci.RELEASE: release}
        is_fetched = record.source == REGISTRY
        path = directory / "tree" / NAME
        found.append(MadeFile(oci.TYPES, record.btf, path, item.content, said, is_fetched))
    return found


def _directories(release: Release, entries: Iterable[Mapping[str, object]]) -> list[Path]:
    return [Path(str(entry["path"])).parent for entry in entries if entry["release"] == release]
