# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serves vmlinux.h: an entry of the cache that has this one file."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import os
import time
from typing import TYPE_CHECKING, TypeVar

from ..cache.entry import TYPES, Record, entry_name
from ..cache.manifest import FILE_MODE, Item, Manifest
from ..errors import KheadersError, NoSpace, NotAvailable, Timeout
from ..formats import oci
from ..formats.tar import FILE
from ..headers.consent import Action
from ..names import REGISTRY
from ..sources.source import NotFound
from ..system.disk import explained
from ..system.files import opened, sha256
from ..system.tasks import SharedWork, closed_at_end, in_thread, within
from . import btf_finder as btf
from . import generate as vmlinux
from .bpftool import find_bpftool

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from io import FileIO
    from pathlib import Path

    from ..cache.entry import Entry
    from ..cache.lifecycle import Lifecycle
    from ..cache.staging import Published, Staging
    from ..headers.consent import Caller
    from ..host.host import Host
    from ..progress import Progress
    from ..release import Release
    from ..sandbox.command import Run
    from ..sources.registry_files import RegistryFiles
    from .bpftool import Bpftool
    from .btf_finder import Btf

SOURCE = "btf"
"""The source of a vmlinux.h that was made here, as records have it."""

log = logging.getLogger(__name__)

T = TypeVar("T")

_BLOCK = 4096


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ServedTypes:
    """A vmlinux.h that is there.

    Attributes:
        arguments: with which clang compiles a program that includes it.
        fresh: whether it was made for the request.
    """

    entry: Entry
    arguments: tuple[str, ...]
    fresh: bool

    @property
    def path(self) -> Path:
        """The path of the vmlinux.h."""
        return self.entry.path / vmlinux.NAME


class TypesProvider:
    """Finds and makes entries with a vmlinux.h. Belongs to the event loop; bpftool runs outside of it."""

    def __init__(
        self,
        host: Host,
        lifecycle: Lifecycle,
        run: Run,
        progress: Progress,
        registry: RegistryFiles,
        find_timeout: float | None = None,
    ) -> None:
        """
        Args:
            registry: gives what another host made, where this one has no bpftool.
            find_timeout: seconds that finding the BTF of a kernel may take; None for ever. May be changed.
        """
        self.find_timeout = find_timeout
        self._host = host
        self._lifecycle = lifecycle
        self._cache = lifecycle.cache
        self._run = run
        self._progress = progress
        self._registry = registry
        self._work = SharedWork()
        self._bpftool: Bpftool | None = None

    async def close(self) -> None:
        """Cancel all work, and wait until it has cleaned up."""
        await self._work.close()

    async def base(self, release: Release) -> Entry | None:
        """The entry that precompiled headers of a release are made from, if it is there now."""
        return self._entry(release)

    def is_current(self, entry: Entry) -> bool:
        """Whether the entry is what the kernel's BTF would give now; microseconds."""
        return self._entry(entry.release) is entry

    async def get_entry(self, release: Release, caller: Caller) -> Entry:
        """As `get`, the entry alone."""
        return (await self.get(release, caller)).entry

    def _entry(self, release: Release) -> Entry | None:
        """The entry that is there, checked at this moment; microseconds.

        It may be without the file: what was precompiled from that is still good.
        """
        for entry in self._cache.all_of(release, TYPES):
            record = entry.record
            if record.root != str(self._host.root):
                continue
            # Distributions delete a kernel's image while it still runs; what was made from it stays good.
            if btf.stamp(self._host, record.origin) not in ("", record.origin_stamp):
                continue
            if entry.is_intact():
                return entry
            if entry.is_on_trial:
                continue
            self._lifecycle.verification.on_damaged(entry, f"{vmlinux.NAME} was deleted or changed")
        return None

    def ready(self, release: Release) -> ServedTypes | None:
        """What can be served at once; microseconds."""
        entry = self._entry(release)
        return self._served(entry, fresh=False) if entry is not None and entry.has_headers else None

    async def get(self, release: Release, caller: Caller) -> ServedTypes:
        """The vmlinux.h of a release: the one that is there, or a new one.

        Raises:
            NotAvailable: there is no BTF; or no bpftool, and no registry has what another one made.
            Corrupt, ReleaseMismatch: the BTF is damaged, or another kernel's.
            CompileFailed: bpftool can make nothing of it.
            NoSpace, Timeout: it could not be made.
            AccessDenied, InteractiveAuthorizationRequired: the caller may not have it made.
        """
        if ready := self.ready(release):
            return ready
        uid = await caller.consent(Action.EXTRACT)
        fetches = self._registry.is_configured and await caller.may(Action.DOWNLOAD)
        work = functools.partial(self._make, release, uid, fetches=fetches)
        made, fresh = await self._work.share((release, fetches), work)
        return self._served(made, fresh=fresh)

    async def why_not_restorable(self, entry: Entry) -> str:
        """Why the vmlinux.h of an entry could not be made again if it were dropped; "" if it could."""
        record = entry.record
        if btf.stamp(self._host, record.origin) != record.origin_stamp:
            return f"{record.origin} is not there any more, or is another file"
        try:
            await self._find_bpftool()
        except KheadersError as error:
            return error.message
        return ""

    def _served(self, entry: Entry, *, fresh: bool) -> ServedTypes:
        entry.touch()
        return ServedTypes(entry, vmlinux.compile_arguments(entry.path, os.uname().machine), fresh)

    async def _make(self, release: Release, uid: int, *, fetches: bool) -> tuple[Entry, bool]:
        started = time.monotonic()
        with self._progress.of(release, SOURCE) as report:
            report("find", 0.0)
            try:
                # First: a release that does not exist must not make the daemon run bpftool.
                await self._in_time(release, btf.check_exists(self._host, release))
                maker = await self._maker(fetches=fetches)
                found = await self._in_time(release, btf.find(self._host, release, self._cache.directory))
            except NotFound as not_found:
                raise NotAvailable(f"there is no BTF for {release}: {not_found.message}") from None
            report("make", 0.5)
            digest = _digest(found, maker)
            name = entry_name(release, digest)
            async with self._cache.locks.of(name):
                if known := await self._confirm(name, found):
                    return known, False
                return await self._write(release, digest, found, maker, started, uid), True

    async def _in_time(self, release: Release, finding: Awaitable[T]) -> T:
        """
        Raises:
            Timeout: it takes longer than it may.
        """

        def late() -> Timeout:
            limit = self.find_timeout or 0
            return Timeout(f"finding the BTF of {release} took longer than {limit:g} s; see ExtractTimeout=")

        return await within(self.find_timeout, finding, late)

    async def _maker(self, *, fetches: bool) -> Bpftool | NotAvailable:
        """What makes vmlinux.h: bpftool, or a registry, for the reason for which there is no bpftool."""
        try:
            return await self._find_bpftool()
        except NotAvailable as error:
            if not fetches:
                raise
            return error

    async def _write_text(self, found: Btf, maker: Bpftool | NotAvailable, out: int) -> int:
        """Write vmlinux.h, and return its size in bytes.

        Raises:
            NotAvailable: no registry has a good one.
            NoSpace: there is no room for it.
            CompileFailed, Timeout, KheadersError: as `vmlinux.make`.
        """
        if not isinstance(maker, NotAvailable):
            return await vmlinux.make(found, maker, self._run, out)
        try:
            origin = await self._registry.fetch(oci.TYPES, found.digest, out)
            size = await in_thread(vmlinux.check, out, f"the file in {origin}")
        except NoSpace:
            raise
        except (NotFound, KheadersError) as error:
            raise NotAvailable(f"{maker.message}; and none was fetched: {error.message}") from None
        log.info("Fetched %s of the BTF in %s from %s", vmlinux.NAME, found.origin, origin)
        return size

    async def _find_bpftool(self) -> Bpftool:
        if self._bpftool is None or not self._bpftool.is_current():
            self._bpftool = await find_bpftool(self._run)
        return self._bpftool

    async def _confirm(self, name: str, found: Btf) -> Entry | None:
        """The entry that was made from the very same BTF, if it is as it should be.

        Its record is updated with the place where the BTF is now: `_entry` compares that.
        """
        entry = self._cache.named(name)
        if entry is None or not entry.has_headers or not entry.is_intact():
            return None
        if entry.record.root != str(self._host.root):
            return None
        record = dataclasses.replace(
            entry.record,
            origin=found.origin,
            origin_stamp=found.origin_stamp,
            build_id=found.build_id,
        )
        return entry if await self._lifecycle.update_origin(entry, record) else None

    async def _write(
        self,
        release: Release,
        digest: str,
        found: Btf,
        maker: Bpftool | NotAvailable,
        started: float,
        uid: int,
    ) -> Entry:
        async with closed_at_end(self._cache.stage, release, digest) as staging:
            # Closed before it is watched: a file that is open for writing counts as changed.
            async with closed_at_end(_create, staging) as file:
                size = await self._write_text(found, maker, file.fileno())
            record = Record(
                release=release,
                digest=digest,
                root=str(self._host.root),
                source=REGISTRY if isinstance(maker, NotAvailable) else SOURCE,
                origin=found.origin,
                origin_stamp=found.origin_stamp,
                build_id=found.build_id,
                files=1,
                bytes=-(-size // _BLOCK) * _BLOCK,
                extracted_at=time.time_ns() // 1000,
                kind=TYPES,
                btf=found.digest,
            )

            def keep(published: Published) -> None:
                self._lifecycle.add(published, time.monotonic() - started, uid)

            return (await in_thread(_publish, staging, record, keep=keep)).entry


def _digest(found: Btf, maker: Bpftool | NotAvailable) -> str:
    """Of all that decides what is in the file: another bpftool makes another vmlinux.h of the same BTF."""
    by = REGISTRY if isinstance(maker, NotAvailable) else maker.digest
    return hashlib.sha256(f"{found.digest}\n{by}\n".encode()).hexdigest()


def _create(staging: Staging) -> FileIO:
    with explained(f"make {vmlinux.NAME}", staging.tree):
        return (staging.tree / vmlinux.NAME).open("x+b", buffering=0)


def _publish(staging: Staging, record: Record) -> Published:
    path = staging.tree / vmlinux.NAME
    with explained(f"finish {vmlinux.NAME}", staging.tree):
        path.chmod(FILE_MODE)
        with opened(path) as (descriptor, status):
            digest = sha256(descriptor, status.st_size)
    return staging.publish(record, Manifest({vmlinux.NAME: Item(FILE, status.st_size, digest)}))
