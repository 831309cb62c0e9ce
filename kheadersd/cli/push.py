# SPDX-License-Identifier: LGPL-2.1-or-later
"""``kheadersctl push``: headers of the daemon's to a registry, from where other hosts fetch them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config
from ..errors import KheadersError, Timeout
from ..formats import oci
from ..names import REGISTRY
from ..repository import Repository, parse_repository
from ..sources.build_tree import Unusable, architecture
from ..sources.source import NotFound, Reason
from ..system.printable import printable
from ..system.tasks import in_thread
from . import output
from .artifact import Headers, headers_of, save_headers, write_layout
from .calls import request
from .failures import DONE, FAILED, NOT_AUTHORISED, NOT_AVAILABLE, CommandError
from .push_files import FilesPush, MadeFile, pchs_of, types_of
from .signing import signing_options
from .upload import Pushed, present, pushing_skopeo, send

if TYPE_CHECKING:
    import argparse

    from ..release import Release
    from .client import Client

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


async def push(client: Client, arguments: argparse.Namespace) -> int:
    """Push the headers of a release, or with ``--new`` those that the registry lacks; the exit code.

    Raises:
        CommandError: it failed.
    """
    if os.geteuid() != 0 and not arguments.session:
        raise CommandError(
            NOT_AUTHORISED, "only root pushes headers, with root's credentials", "Try again as root."
        )
    with _signals_after_cleaning():
        return await _push(client, arguments)


async def _push(client: Client, arguments: argparse.Namespace) -> int:
    settings, problems = await in_thread(config.load)
    for problem in problems:
        output.complain(f"kheadersctl: {problem}")
    failures: list[str] = []
    try:
        if arguments.new:
            done = await _push_new(client, settings, arguments.within, failures.append)
        else:
            done = [await _push_named(client, settings, arguments, failures.append)]
    except NotFound as error:
        raise CommandError(
            NOT_AVAILABLE if error.reason is Reason.MISSING else FAILED, error.message
        ) from None
    except KheadersError as error:
        raise CommandError(FAILED, error.message) from None
    if arguments.json:
        values = [one.value for one in done]
        output.put_json(values if arguments.new else values[0])
    else:
        for one in (each for pushed in done for each in (pushed, *pushed.files)):
            output.put(printable(str(one), 600))
    for failure in failures:
        output.complain(f"kheadersctl: {failure}")
    return FAILED if failures else DONE


async def _push_named(
    client: Client,
    settings: config.Config,
    arguments: argparse.Namespace,
    on_failure: Callable[[str], None],
) -> Pushed:
    """Push the headers of one release; with ``--pchs`` and ``--types`` what was made, too.

    Args:
        on_failure: called with what is wrong with one file that was made.

    Raises:
        As `_push_one`.
    """
    repository, key = parse_repository(arguments.repository), settings.push_pch_signing_key
    wants_files = arguments.pchs or arguments.types
    if wants_files and key is None:
        raise KheadersError(
            "PushPchSigningKey= names no key, and no host takes such files without a signature"
        )
    pushed = await _push_one(client, settings, arguments.release, repository, replace=arguments.replace)
    if key is None or not wants_files:
        return pushed
    pushing = FilesPush(repository, key, arguments.replace, on_failure)
    entries, files = await _entries(client), []
    for is_wanted, find, command in (
        (arguments.pchs, pchs_of, "pch"),
        (arguments.types, types_of, "types"),
    ):
        if is_wanted:
            found = await in_thread(find, arguments.release, entries)
            files += found
            if not found:
                on_failure(
                    f"of {arguments.release} there is nothing to push that kheadersctl {command} makes"
                )
    with _private_directory() as directory:
        return dataclasses.replace(pushed, files=await pushing.run(files, directory))


async def _push_new(
    client: Client, settings: config.Config, within: float, on_failure: Callable[[str], None]
) -> list[Pushed]:
    """Push what was made here and the first registry lacks, if the configuration wants that.

    Many hosts do the same at the same time, and no registry lets one of them reserve a tag. So each looks,
    waits for a random time, and looks again; what two push at the same time are equal bytes.

    The unit is not started for what is made while it runs: it ends when there is nothing that it has not
    looked at.

    Args:
        within: seconds of the longest wait.
        on_failure: called with what is wrong with one release or file; the others are pushed.

    Raises:
        NotFound: the registry cannot be reached.
    """
    if not settings.push_new or not settings.registries:
        return []
    repository = dataclasses.replace(settings.registries[0], digest="")
    key = settings.push_pch_signing_key if settings.push_new_pchs else None
    if settings.push_new_pchs and key is None:
        on_failure("PushNewPchs=yes, and PushPchSigningKey= names no key: headers alone are pushed")
    done: list[Pushed] = []
    seen: set[str] = set()
    has_waited = False
    while new := {tag: made for tag, made in (await _made_here(client, key)).items() if tag not in seen}:
        seen.update(new)
        lacking = await _lacking(repository, new)
        if lacking and not has_waited:
            await asyncio.sleep(random.uniform(0, within))  # noqa: S311 - no secret
            has_waited = True
            lacking = await _lacking(repository, lacking)
        files = [made for made in lacking.values() if isinstance(made, MadeFile)]
        for tag, made in lacking.items():
            if isinstance(made, MadeFile):
                continue
            try:
                done.append(await _push_one(client, settings, made, repository, replace=True))
            except (NotFound, KheadersError, CommandError) as error:
                on_failure(f"{made} is not pushed: {error.message}")
                if isinstance(error, (NotFound, Timeout)) and not await _answers(repository, tag):
                    return done
        if key is not None and files:
            # All at once: the key is imported once.
            pushing = FilesPush(repository, key, replace=True, on_failure=on_failure)
            try:
                with _private_directory() as directory:
                    done += await pushing.run(files, directory)
            except KheadersError as error:
                on_failure(f"what was precompiled is not pushed: {error.message}")
    return done


async def _made_here(client: Client, key: Path | None) -> dict[str, Release | MadeFile]:
    """The headers that were extracted here and, with a key, the files that were made here, by their tags.

    Headers that are of no known architecture, or are removed meanwhile, are left out.
    """
    entries = await _entries(client)
    found: dict[str, Release | MadeFile] = {}
    for entry in entries:
        if entry["source"] == REGISTRY or not entry["headers_kept"] or entry["kind"] != "headers":
            continue
        with contextlib.suppress(KheadersError):
            headers = _headers_in(entry)
            found[oci.tag_of(headers.release, headers.architecture)] = headers.release
    if key is not None:
        for release in dict.fromkeys(entry["release"] for entry in entries):
            for find in (pchs_of, types_of):
                files = await in_thread(find, release, entries)
                found |= {file.tag: file for file in files if not file.is_fetched}
    return found


async def _answers(repository: Repository, tag: str) -> bool:
    """Whether a registry can be reached, which has just refused something."""
    try:
        await present(pushing_skopeo(), repository, tag)
    except (NotFound, KheadersError):
        return False
    return True


async def _lacking(
    repository: Repository, made: Mapping[str, Release | MadeFile]
) -> dict[str, Release | MadeFile]:
    """What has no tag in a repository."""
    skopeo = pushing_skopeo()
    return {tag: one for tag, one in made.items() if await present(skopeo, repository, tag) is None}


async def _push_one(
    client: Client,
    settings: config.Config,
    release: Release,
    repository: Repository,
    *,
    replace: bool = False,
) -> Pushed:
    """Push the headers of one release, unless the registry has them.

    Args:
        replace: whether what the registry has is replaced in any case.

    Raises:
        CommandError: the tag has other headers.
        NotFound, KheadersError: the headers cannot be had, or not be pushed.
    """
    skopeo = pushing_skopeo()
    with _private_directory() as directory:
        descriptor, _, details = await request(client, "Export", "sa{sv}", release, {})
        archive = directory / "headers.tar"
        content = await in_thread(save_headers, descriptor, archive)
        headers = await _exported(client, details)
        tag = oci.tag_of(headers.release, headers.architecture)
        if not replace and (found := await present(skopeo, repository, tag)) is not None:
            digest, manifest = found
            if manifest is not None and _is_same(manifest, headers, content):
                return Pushed(repository, tag, digest, is_new=False, size=manifest.layer.size)
            raise CommandError(
                FAILED, f"{repository.name}:{tag} has other headers: {digest}", "--replace replaces them."
            )
        layout = directory / "artifact"
        manifest = await in_thread(write_layout, headers, content, archive, layout)
        keyring = _made(directory / "gnupg")
        async with signing_options(settings.push_signing_key, keyring, "PushSigningKey=") as signing:
            return await send(skopeo, layout, manifest, repository, tag, signing)


def _is_same(manifest: oci.Manifest, headers: Headers, content: str) -> bool:
    """Whether what the registry has is what would be pushed: the same headers, of the same build."""
    theirs = (manifest.content, manifest.annotations[oci.RELEASE], manifest.annotations[oci.ARCHITECTURE])
    if theirs != (content, headers.release, headers.architecture):
        return False
    # A host that has read them from a file does not know of which build they are.
    return "" in (headers.build_id, manifest.build_id) or headers.build_id == manifest.build_id


async def _exported(client: Client, details: dict[str, Any]) -> Headers:
    """What the daemon knows of the headers that it has exported."""
    for entry in await _entries(client):
        if (entry["release"], entry["digest"]) == (details["release"], details["digest"]):
            return _headers_in(entry)
    raise KheadersError(f"the headers of {details['release']} were removed meanwhile; try again")


async def _entries(client: Client) -> list[dict[str, Any]]:
    (description,) = await client.call("Describe")
    found: list[dict[str, Any]] = json.loads(description)["cache"]["entries"]
    return found


def _headers_in(entry: dict[str, Any]) -> Headers:
    try:
        return headers_of(entry, architecture(Path(entry["path"])), Path(entry["origin"]))
    except Unusable as error:
        raise KheadersError(error.message) from None


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o700)
    return directory


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="kheadersctl-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _signals_after_cleaning() -> Iterator[None]:
    """Have SIGTERM and SIGHUP cancel what is within, and end the process after that.

    The copy of a private key is in its private directory, and an agent of GnuPG's holds it.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if not received:
            task.cancel()
        received.append(number)

    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup(1)
    for number in handled:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
        if received:
            signal.raise_signal(received[0])
