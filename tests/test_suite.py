"""The suite itself: each process collects the same, and nothing is left out untold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow


def _collected(directory: Path, **environment: str) -> list[str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider"),
            *("--rootdir", REPOSITORY, REPOSITORY / "tests"),
        ],
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_each_process_collects_the_same_tests(tmp_path: Path) -> None:
    """As pytest-xdist's workers must: ids have neither the time of day nor the order of a set in them."""
    here = _collected(REPOSITORY, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C.UTF-8")
    there = _collected(tmp_path, PYTHONHASHSEED="2", TZ="Pacific/Chatham", LC_ALL="POSIX")
    assert len(here) > 2000
    assert here == there


@pytest.mark.parametrize(("reason", "status"), [("this kernel has no BTF", 0), ("groff is not installed", 1)])
def test_a_skip_that_is_not_expected_fails(tmp_path: Path, reason: str, status: int) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import pytest\n@pytest.mark.skip({reason!r})\ndef test_it(): ...\n"
    )
    command = [
        sys.executable,
        *["-m", "pytest", "-p", "tests.support.skips", "--expected-skips"],
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout
    assert ("not in tests.support.skips: groff" in done.stdout) is bool(status)
