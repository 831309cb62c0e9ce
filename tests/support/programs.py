"""Runs the programs that make what tests need."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_TIME_LIMIT = 1200.0  # seconds


class CannotRun(Exception):
    """A program is missing, failed, or did not end in time; the message names it and has its last words."""


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """What a program prints, in the C locale, without any standard input.

    Args:
        env: additions to this process's environment.

    Raises:
        CannotRun: it is missing, failed, or took longer than 20 minutes.
    """
    words = " ".join(str(word) for word in command)
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIME_LIMIT,
            check=False,
        )
    except FileNotFoundError as error:
        raise CannotRun(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CannotRun(f"'{words}' did not end within {_TIME_LIMIT:g} seconds") from error
    if done.returncode != 0:
        raise CannotRun(f"'{words}' failed with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout
