# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that another host made from headers and pushed to an OCI registry, found by the key of what they are.

A compiler trusts a precompiled header as it trusts its own files, and the host's containers-policy.json(5)
says nothing about that. So a key that the configuration names has to have signed the artifact, and skopeo is
given a policy that accepts this key alone. What is signed has the key of the file in it: an artifact that is
good for one cannot be served as another.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ..errors import Corrupt, KheadersError, NoSpace, Timeout
from ..formats import oci
from ..formats.deb import open_part
from ..formats.decompress import chunks
from ..system.disk import explained, write_all
from ..system.files import read_file
from ..system.tasks import in_thread, within
from .registry import fetching_skopeo, open_layer, worst
from .registry_policy import MAX_KEY, policy_of_key
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
    from pathlib import Path

    from ..formats.oci import Kind, Manifest
    from ..repository import Repository
    from .package_work import PackageWork
    from .skopeo import Skopeo

SECONDS = 30.0
"""The time limit of a fetch, from all registries: to make the file here takes seconds."""

PAUSE = 300.0
"""Seconds for which a registry is not asked again that could not be reached."""

MAX_FETCHES = 2
"""How many run at a time; one takes up to 64 MiB of disk besides the file."""


class RegistryFiles:
    """Files from the repositories that the configuration names, in this order. Belongs to the event loop.

    Args:
        work: the directory that is fetched to.
        skopeo: how registries are spoken to; by default with this machine's configuration.
    """

    def __init__(self, work: PackageWork, skopeo: Skopeo | None = None) -> None:
        self._work = work
        self._given = skopeo
        self._repositories: Sequence[Repository] = ()
        self._key: Path | None = None
        self._paused: dict[Repository, float] = {}
        self._fetching = asyncio.Semaphore(MAX_FETCHES)

    def configure(self, repositories: Sequence[Repository], key: Path | None) -> None:
        """Use other repositories from now on.

        Args:
            key: the file with the public key that has to have signed what is taken; None to take nothing.
        """
        self._repositories = list(dict.fromkeys(dataclasses.replace(one, digest="") for one in repositories))
        self._key = key
        self._paused.clear()

    @property
    def is_configured(self) -> bool:
        """Whether anything is looked for."""
        return bool(self._repositories) and self._key is not None

    async def fetch(self, kind: Kind, key: str, out: int) -> str:
        """Write a file to a descriptor, and return the reference of its artifact.

        What was written is good only if this returns. Nothing else is left on the disk.

        Args:
            key: of the file, 64 hex digits.
            out: a descriptor of a file, whose content is replaced; a thread writes to a copy of it.

        Raises:
            NotFound: no registry has it, or can be reached, or skopeo is missing.
            Corrupt: what came is not signed by the key, is another file, or damaged.
            NoSpace: there is no room for it.
            Timeout: it takes longer than `SECONDS`.
            KheadersError: the public key cannot be read, or skopeo not be run.
        """
        assert self._key is not None
        path = self._key
        skopeo = self._given or fetching_skopeo()
        if not skopeo.is_installed():
            raise NotFound(Reason.UNSUPPORTED, "skopeo is not installed, which speaks to registries")
        try:
            public = await in_thread(read_file, path, MAX_KEY)
        except OSError as error:
            raise KheadersError(f"PchKey={path} cannot be read: {error.strerror}") from error
        end = time.monotonic() + SECONDS
        async with self._turn():
            return await self._fetch_from_any(
                functools.partial(self._fetch, skopeo, public, kind, key, out), end
            )

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One of the fetches that may run at a time.

        Raises:
            Timeout: others have taken all of the time.
        """
        await within(SECONDS, self._fetching.acquire(), _no_turn)
        try:
            yield
        finally:
            self._fetching.release()

    async def _fetch_from_any(
        self, fetch: Callable[[Repository], Coroutine[Any, Any, str]], end: float
    ) -> str:
        failures: list[NotFound | KheadersError] = []
        for repository in self._repositories:
            if time.monotonic() < self._paused.get(repository, 0):
                failures.append(
                    NotFound(Reason.MISSING, f"{repository} could not be reached, and is not asked")
                )
                continue
            asked = time.monotonic()
            try:
                return await within(end - asked, fetch(repository), functools.partial(_late, repository))
            except NoSpace:
                raise
            except Timeout as error:
                if time.monotonic() - asked >= SECONDS / 3:  # else others had the time before it
                    self._pause(repository)
                failures.append(error)
                break
            except NotFound as error:
                if error.reason is not Reason.MISSING:
                    self._pause(repository)
                failures.append(error)
            except KheadersError as error:
                failures.append(error)
        raise worst(failures)

    def _pause(self, repository: Repository) -> None:
        self._paused[repository] = time.monotonic() + PAUSE

    async def _fetch(
        self, skopeo: Skopeo, public: bytes, kind: Kind, key: str, out: int, repository: Repository
    ) -> str:
        data = await skopeo.manifest(repository, f":{oci.tag_of_file(kind, key)}", SECONDS)
        digest = oci.reference_of(data)
        label = f"{repository.name}@{digest}"
        manifest = oci.parse_manifest(data, label, kind)
        if manifest.annotations[oci.KEY] != key:
            raise Corrupt(f"{label} is another file: its key is {manifest.annotations[oci.KEY]}")
        await in_thread(self._work.prepare)
        with self._work.scratch() as scratch:
            self._work.check_size(label, manifest.layer.size + manifest.file_bytes)
            target = scratch / "artifact"
            await skopeo.fetch(
                repository,
                digest,
                target,
                manifest.layer.size,
                policy=policy_of_key(repository, public),
                seconds=SECONDS,
            )
            cancelled = threading.Event()
            await in_thread(_write, manifest, target, label, out, cancelled, cancelled=cancelled)
        return label


def _no_turn() -> Timeout:
    return Timeout(f"others were fetching for {SECONDS:g} s")


def _late(repository: Repository) -> Timeout:
    return Timeout(f"{repository} did not answer within {SECONDS:g} s")


def _write(manifest: Manifest, directory: Path, label: str, out: int, cancelled: threading.Event) -> None:
    """Decompress a layer, as far as it has the size and the digest that the manifest promises."""
    copy = os.dup(out)  # the caller may close its own before a thread that hangs comes back
    try:
        os.ftruncate(copy, 0)
        os.lseek(copy, 0, os.SEEK_SET)
        left, digest = manifest.file_bytes, hashlib.sha256()
        with open_layer(manifest, directory, label) as file:
            data = functools.partial(open_part, file, 0, file.size)
            pieces = chunks(data, label, manifest.compression)
            try:
                for piece in pieces:
                    if cancelled.is_set():
                        return
                    left -= len(piece)
                    if left < 0:
                        break
                    digest.update(piece)
                    with explained("keep what was fetched", directory):
                        write_all(copy, piece)
            finally:
                pieces.close()
        if left or digest.hexdigest() != manifest.content:
            raise Corrupt(f"the file in {label} is not what the manifest promises")
    finally:
        os.close(copy)
