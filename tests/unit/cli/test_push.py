"""What ``kheadersctl push --new`` does when not all goes well; `tests/real/registry` pushes."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kheadersd.cli import push
from kheadersd.cli.artifact import Headers
from kheadersd.cli.push_files import FilesPush, MadeFile
from kheadersd.cli.upload import Pushed
from kheadersd.config import Config
from kheadersd.errors import Corrupt
from kheadersd.formats import oci
from kheadersd.repository import Repository, parse_repository
from kheadersd.sources.source import NotFound, Reason
from tests.support.hosts import RELEASE

REPOSITORY = parse_repository("registry.example.org/kernels")
SETTINGS = Config(push_new=True, registries=(REPOSITORY,))


_WAITING = """
import asyncio
from kheadersd.cli import push

async def wait():
    with push._signals_after_cleaning(), push._private_directory() as directory:
        print(directory, flush=True)
        await asyncio.Event().wait()

asyncio.run(wait())
"""


class MadeUpRegistry:
    """A registry, and a host that has extracted headers.

    Attributes:
        extracted: releases.
        pushed: releases.
        failures: what a push of a release fails with.
        later: what is extracted while a release is pushed.
        files: what was made here.
        is_gone: whether it does not answer.
    """

    def __init__(self, *extracted: str) -> None:
        self.extracted = list(extracted)
        self.pushed: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.later: dict[str, str] = {}
        self.files: list[MadeFile] = []
        self.is_gone = False

    async def made_here(self, _client: Any, key: Path | None) -> dict[str, str | MadeFile]:
        files = {file.tag: file for file in self.files} if key else {}
        return {release: release for release in self.extracted} | files

    async def present(self, _skopeo: Any, _repository: Repository, tag: str) -> tuple[str, None] | None:
        if self.is_gone:
            raise NotFound(Reason.UNREADABLE, "gone")
        return ("sha256:" + "0" * 64, None) if tag in self.pushed else None

    async def push_files(self, files: Sequence[MadeFile]) -> tuple[Pushed, ...]:
        self.pushed += [file.tag for file in files]
        return tuple(
            Pushed(REPOSITORY, file.tag, "sha256:" + "0" * 64, is_new=True, size=1) for file in files
        )

    async def push(
        self, _client: Any, _settings: Config, release: str, repository: Repository, **_: Any
    ) -> Pushed:
        if release in self.later:
            self.extracted.append(self.later.pop(release))
        if release in self.failures:
            raise self.failures[release]
        if self.is_gone:
            raise NotFound(Reason.UNREADABLE, "gone")
        self.pushed.append(release)
        return Pushed(repository, release, "sha256:" + "0" * 64, is_new=True, size=1)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> MadeUpRegistry:
    made = MadeUpRegistry("6.1", "6.2")
    monkeypatch.setattr(push, "_made_here", made.made_here)
    monkeypatch.setattr(push, "present", made.present)
    monkeypatch.setattr(push, "pushing_skopeo", lambda: None)
    monkeypatch.setattr(push, "_push_one", made.push)
    monkeypatch.setattr(FilesPush, "run", lambda _pushing, files, _directory: made.push_files(files))
    return made


async def push_new(failures: list[str], settings: Config = SETTINGS) -> list[str]:
    client: Any = None
    return [one.tag for one in await push._push_new(client, settings, 0, failures.append)]


async def test_one_that_is_damaged_does_not_keep_the_others(registry: MadeUpRegistry) -> None:
    registry.failures["6.1"] = Corrupt("a file is missing")
    failures: list[str] = []
    assert await push_new(failures) == ["6.2"]
    assert failures == ["6.1 is not pushed: a file is missing"]


async def test_what_is_extracted_meanwhile_is_pushed(registry: MadeUpRegistry) -> None:
    registry.later["6.2"] = "6.3"
    failures: list[str] = []
    assert await push_new(failures) == ["6.1", "6.2", "6.3"]
    assert failures == []


async def test_one_that_the_registry_refuses_does_not_keep_the_others(registry: MadeUpRegistry) -> None:
    registry.failures["6.1"] = NotFound(Reason.UNREADABLE, "too large")
    failures: list[str] = []
    assert await push_new(failures) == ["6.2"]
    assert failures == ["6.1 is not pushed: too large"]


async def test_a_registry_that_is_gone_is_not_asked_again(
    registry: MadeUpRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    registry.failures["6.1"] = NotFound(Reason.UNREADABLE, "gone")
    asked = registry.present

    async def present(skopeo: Any, repository: Repository, tag: str) -> tuple[str, None] | None:
        registry.is_gone = bool(failures)
        return await asked(skopeo, repository, tag)

    monkeypatch.setattr(push, "present", present)
    assert await push_new(failures) == []
    assert failures == ["6.1 is not pushed: gone"]
    with pytest.raises(NotFound):
        await push_new(failures)
    assert registry.pushed == []


async def test_what_is_made_during_the_last_look_is_pushed(
    registry: MadeUpRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.extracted = ["6.1"]
    registry.pushed = ["6.1"]
    asked = registry.present

    async def present(skopeo: Any, repository: Repository, tag: str) -> tuple[str, None] | None:
        registry.extracted = ["6.1", "6.2"]
        return await asked(skopeo, repository, tag)

    monkeypatch.setattr(push, "present", present)
    assert await push_new([]) == ["6.2"]


FILE = MadeFile(oci.PCH, "0" * 64, Path("/nowhere"), "1" * 64, {}, is_fetched=False)


async def test_what_was_precompiled_is_pushed_if_that_is_wanted(registry: MadeUpRegistry) -> None:
    registry.files = [FILE]
    assert await push_new([]) == ["6.1", "6.2"]
    wanted = dataclasses.replace(SETTINGS, push_new_pchs=True, push_pch_signing_key=Path("/key"))
    assert await push_new([], wanted) == [FILE.tag]
    assert await push_new([], wanted) == []


async def test_without_a_key_only_headers_are_pushed(registry: MadeUpRegistry) -> None:
    registry.files = [FILE]
    failures: list[str] = []
    assert await push_new(failures, dataclasses.replace(SETTINGS, push_new_pchs=True)) == ["6.1", "6.2"]
    assert failures == ["PushNewPchs=yes, and PushPchSigningKey= names no key: headers alone are pushed"]


@pytest.mark.parametrize(
    ("ours", "theirs", "is_same"),
    [("", "ab", True), ("ab", "", True), ("ab", "ab", True), ("ab", "cd", False)],
)
def test_headers_of_an_unknown_build_are_not_other_headers(ours: str, theirs: str, is_same: bool) -> None:
    """A host that has read them from a file does not know of which build they are."""
    headers = Headers(RELEASE, "0" * 64, "sysfs", Path("/nowhere"), ours, "x86")
    annotations = {oci.RELEASE: RELEASE, oci.ARCHITECTURE: "x86", oci.BUILD_ID: theirs}
    manifest: Any = SimpleNamespace(content="1" * 64, annotations=annotations, build_id=theirs)
    assert push._is_same(manifest, headers, "1" * 64) == is_same


@contextlib.contextmanager
def waiting(first: str = "") -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a private directory, killed in the end if it has not ended."""
    command = [sys.executable, "-c", first + _WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child, Path(child.stdout.readline().strip())
        finally:
            child.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_copy_of_a_key(number: signal.Signals) -> None:
    with waiting() as (child, directory):
        assert directory.is_dir()
        child.send_signal(number)
        assert child.wait(30) == -number
    assert not directory.exists()


def test_nohup_stays_in_force() -> None:
    with waiting("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n") as (child, directory):
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == -signal.SIGTERM
    assert not directory.exists()
