"""Every row can be measured; one that cannot takes nothing away from the others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bench.__main__ import ROWS
from tests.support.kheaders import RealHeaders
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow

_SECONDS = 280
_LAST_LINE_OF_START = "start to ready, wall"


def _bench(*arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench", "--quick", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )


@pytest.mark.parametrize("row", ROWS)
def test_a_row(row: str, real_headers: RealHeaders) -> None:
    with _bench(row) as bench:
        output, errors = bench.communicate(timeout=_SECONDS)
    assert bench.returncode == 0, output + errors
    assert "failed" not in output
    heading, *results = output.split("\n\n")[1].splitlines()
    assert heading.split() == ["kheadersd", "compared", "ratio", "goal", "half", "of", "them"]
    assert results


def test_a_row_that_fails(real_headers: RealHeaders, tmp_path: Path) -> None:
    """It is reported; what was measured before it is printed already, and what comes after is measured."""
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    tar = tmp_path / "tar"
    tar.write_text(f"#!/bin/sh\nread word <'{go_on}'\nexit 3\n")
    tar.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with _bench("start", "tar", "start", environment={"PATH": path}) as bench:
        assert bench.stdout is not None
        assert any(line.startswith(_LAST_LINE_OF_START) for line in bench.stdout)
        go_on.write_text("now\n")
        output, errors = bench.communicate(timeout=_SECONDS)
    assert bench.returncode == 1, output + errors
    failure, *_, last = output.splitlines()
    assert failure == "tar failed: RuntimeError: tar ended with 3"
    assert last.startswith(_LAST_LINE_OF_START)
    assert errors.endswith("\nfailed: tar\n")
