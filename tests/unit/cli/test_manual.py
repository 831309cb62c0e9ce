"""The manual pages say what there is, and nothing else."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest

from kheadersd.config import Config
from kheadersd.pch.profiles import CONSUMERS
from tests.support.help_text import commands, help_of, listed_options, options
from tests.support.running import REPOSITORY

MANUAL = REPOSITORY / "man"


def text(page: str) -> str:
    """A page without what is for the typesetter."""
    source = (MANUAL / page).read_text().replace("\\-", "-").replace("\\&", "")
    return re.sub(r"\\f[BIR]|\\\|", "", source)


def tags(page: str) -> list[str]:
    """What is explained on a page, as in "get [--source SOURCE]... [--refresh] [RELEASE]"."""
    return [re.sub(r"^\.B[RI]? ", "", tag) for tag in re.findall(r"^\.TP\n(.*)$", text(page), re.MULTILINE)]


def test_every_command_with_its_options() -> None:
    explained = {tag.split()[0]: tag for tag in tags("kheadersctl.1")}
    assert {name for name in explained if name.isalpha()} == set(commands())
    of_all = {"--session", "--json", "--verbose"}
    for name in commands():
        assert options(explained[name]) == listed_options("kheadersd.cli", name) - of_all, name


def test_every_exit_status() -> None:
    explained = {tag for tag in tags("kheadersctl.1") if tag.isdigit()}
    assert explained == set(re.findall(r"\d", help_of("kheadersd.cli").partition("Exit codes:")[2])) != set()


def test_every_option_of_the_daemon() -> None:
    explained = {option for tag in tags("kheadersd.8.in") if tag.startswith("-") for option in options(tag)}
    assert explained == listed_options("kheadersd") != set()


def test_every_setting_with_its_default() -> None:
    page = text("kheadersd.conf.5")
    settings = {setting.metadata["key"]: setting for setting in dataclasses.fields(Config)}
    explained = set()
    for section in page.split("\n.SH ")[1:]:
        name = section.partition("\n")[0].strip("[]").capitalize()
        for key, said in re.findall(
            r"^\.TP\n\.B (\w+)=\n(.*?)(?=^\.TP\n|\Z)", section, re.MULTILINE | re.DOTALL
        ):
            explained.add((name, key))
            default = re.search(r"default(?: is)?,?\n\.BR \"?([^\"\n]*?)\"? [.,]$", said, re.MULTILINE)
            setting = settings[name, key]
            if default:
                assert setting.metadata["parse"](default[1]) == setting.default, key
            else:
                assert (
                    "default is empty" if not setting.default else f"{setting.default} ,\nthe default"
                ) in said
    assert explained == set(settings)


def test_consumers_are_those_of_profiles() -> None:
    said = text("org.kheaders.Provide.5").partition("what takes the precompiled header:\n.BR ")[2]
    assert re.findall(r"[a-z-]{3,}", said.partition("\n")[0]) == list(CONSUMERS)


@pytest.mark.parametrize("page", sorted(path.name for path in MANUAL.glob("*.[158]*")))
def test_a_typesetter_accepts_it(page: str) -> None:
    if not any(Path(place, "groff").exists() for place in ("/usr/bin", "/bin")):
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-z", str(MANUAL / page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
