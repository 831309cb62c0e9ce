"""The completions of the three shells offer every command and option of kheadersctl, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.support.help_text import commands, listed_options
from tests.support.running import REPOSITORY

COMPLETIONS = REPOSITORY / "completions"

BASH = """
source "$1"
COMP_WORDS=(kheadersctl "${@:2}")
COMP_CWORD=$(($# - 1))
_kheadersctl
printf '%s\\n' "${COMPREPLY[@]}"
"""


def run(*command: str) -> list[str]:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def bash(*words: str) -> list[str]:
    return run("bash", "--norc", "-c", BASH, "bash", str(COMPLETIONS / "kheadersctl.bash.in"), *words)


def fish(line: str) -> list[str]:
    script = f"source {COMPLETIONS}/kheadersctl.fish.in; complete -C '{line}'"
    return [offer.partition("\t")[0] for offer in run("fish", "--no-config", "-c", script)]


def test_bash_offers_every_command() -> None:
    assert sorted(bash("")) == sorted(commands())
    assert bash("exp") == ["export"]


def test_bash_offers_every_option() -> None:
    for command in commands():
        assert set(bash(command, "-")) - {"--help"} == listed_options("kheadersd.cli", command), command


def test_bash_offers_values() -> None:
    assert bash("get", "--source", "mod") == ["module-file", "module"]
    assert bash("env", "--shell", "f") == ["fish"]


def test_bash_leaves_the_flags_of_another_command_alone() -> None:
    assert bash("cc", "program.c", "--", "-") == [""]


def test_fish_offers_every_command() -> None:
    assert fish("kheadersctl ") == sorted(commands())


def test_fish_offers_every_option() -> None:
    for command in commands():
        offered = set(fish(f"kheadersctl {command} -"))
        expected = listed_options("kheadersd.cli", command)
        assert offered - {"--help", "-h"} == expected, command


def test_fish_offers_values() -> None:
    assert fish("kheadersctl get --source sy") == ["sysfs"]
    assert fish("kheadersctl env --shell s") == ["sh", "systemd"]


def test_zsh_knows_every_command_and_option() -> None:
    """From its text: zsh completes on a terminal only."""
    text = (COMPLETIONS / "_kheadersctl.in").read_text()
    assert run("zsh", "-n", str(COMPLETIONS / "_kheadersctl.in")) == []
    assert re.findall(r"^        '([a-z]+):", text, re.MULTILINE) == sorted(commands())
    groups = {
        name: set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?=\[|[,}])", body))
        for name, body in re.findall(r"^    (\w+)=\((.*?)\)$", text, re.MULTILINE | re.DOTALL)
    }
    cases = re.findall(r"^        ([a-z |*]+)\)(.*?);;", text, re.MULTILINE | re.DOTALL)
    known: dict[str, set[str]] = {}
    for names, body in cases:
        options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*(?=\[|[,}])", body))
        for group in re.findall(r"\$(\w+)", body):
            options |= groups.get(group, set())
        known |= dict.fromkeys(names.split(" | "), options - {"-h", "--help"})
    for command in commands():
        assert known.get(command, known["*"]) == listed_options("kheadersd.cli", command), command
