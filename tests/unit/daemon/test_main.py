"""The life of the program, as far as it needs no bus."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest

from kheadersd.config import Config
from kheadersd.daemon import main
from kheadersd.daemon.arguments import parse_arguments
from kheadersd.journal import Journal
from tests.support.clients import eventually


class Told:
    """A service manager that remembers, and whatever else is configured."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.failures: list[Exception] = [OSError(5, "Input/output error"), RuntimeError("a mistake")]

    def reloading(self) -> None:
        self.heard.append("reloading")

    def reloaded(self) -> None:
        self.heard.append("reloaded")

    def start(self) -> None:
        self.heard.append("applied")

    async def configure(self, _: object) -> None:
        if self.failures:
            raise self.failures.pop()


async def test_a_reload_that_fails_is_not_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    arguments = parse_arguments([f"--root={tmp_path}", f"--cache-directory={tmp_path}", "--config=/dev/null"])
    daemon = main._Daemon(arguments, Config(), Journal(target="null"))
    told = Told()
    daemon._manager = cast("Any", told)
    reloading = asyncio.create_task(daemon._reload_when_told(*cast("Any", [told] * 3)))
    for count in (1, 2, 3):
        daemon._hangup.set()
        await eventually(lambda count=count: told.heard.count("reloaded") == count)  # type: ignore[misc]
    assert told.heard == ["reloading", "reloaded"] * 2 + ["reloading", "applied", "reloaded"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "could not be applied: a mistake" in caplog.text
    reloading.cancel()
    await asyncio.wait([reloading])
