"""What --help says of each command."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.support.running import REPOSITORY


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return done.stdout


def listed_options(*command: str) -> set[str]:
    """Those that --help explains, each at the start of a line."""
    return {
        option
        for line in re.findall(r"^  (-.*)$", help_of(*command), re.MULTILINE)
        for option in options(line.partition("   ")[0])
    }


def options(said: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", said)) - {"-h", "--help"}


def commands() -> list[str]:
    """The commands of kheadersctl, in the order of --help."""
    return re.findall(r"^    ([a-z]+) ", help_of("kheadersd.cli"), re.MULTILINE)
