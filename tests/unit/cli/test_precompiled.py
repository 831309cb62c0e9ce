"""What a tool's environment is, and which tools do not look at it."""

from __future__ import annotations

import compileall
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheadersd.cli.precompiled import environment, why_ignored
from kheadersd.errors import InvalidArgs
from tests.support.directories import made_for_root
from tests.support.needs import needs_root
from tests.support.running import REPOSITORY


@pytest.mark.parametrize(
    ("command", "ignores"),
    [
        (["python3", "tool"], False),
        (["python3", "-I", "tool"], True),
        (["/usr/bin/python3.13", "-sE", "-c", "x"], True),
        (["python3", "-c", "-I"], False),
        (["python3", "-S", "tool"], True),
        (["python3", "-", "-I"], False),
        (["python3", "-W", "error", "-I", "tool"], True),
        (["python3", "-Xdev", "-uX", "dev", "-I", "tool"], True),
        (["python3", "-W", "-I", "tool"], False),
        (["python3", "-W"], False),
        (["/bin/python3-config", "-I"], False),
        (["env", "python3", "-I", "tool"], True),
        (["env", "-u", "LANG", "A=1", "python3", "-I"], True),
        (["env", "A=1", "tool"], False),
        (["/usr/bin/env", "-i", "tool"], True),
        (["env", "-", "tool"], True),
        (["env", "-u", "PYTHONPATH", "tool"], True),
        (["env", "PYTHONPATH=/x", "tool"], True),
        (["env", "--", "tool", "-i"], False),
        (["env"], False),
        (["nice", "-n", "10", "ionice", "-c", "3", "python3", "-E", "tool"], True),
        (["nice", "-10", "python3", "-E"], True),
        (["nice", "tool", "-I"], False),
        (["nice", "sudo", "tool"], True),
        (["python3", "tool", "-I"], False),
        (["python3", "--version"], False),
        (["no-such-command", "-I"], False),
        (["/bin/true", "-I"], False),
    ],
)
def test_options(command: list[str], ignores: bool) -> None:
    assert bool(why_ignored(command)) is ignores


def test_sudo() -> None:
    assert "let sudo run kheadersctl" in why_ignored(["/usr/bin/sudo", "tool"])


@pytest.mark.parametrize(
    ("first", "ignores"),
    [
        ("#!/usr/bin/python3", False),
        ("#!/usr/bin/python3 -I", True),
        ("#! /usr/bin/env -S python3 -E", True),
        ("#!/usr/bin/env python3", False),
        ("#!/bin/sh -E", False),
        ("\x7fELF", False),
        ("", False),
    ],
)
def test_first_line(tmp_path: Path, first: str, ignores: bool) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"{first}\nimport bcc\n")
    tool.chmod(0o755)
    assert bool(why_ignored([str(tool), "-I"])) is ignores


@pytest.fixture
def package() -> Iterator[Path]:
    with made_for_root() as directory:
        copy = directory / "kheadersd"
        for name in ("data/site", "precompiled"):
            shutil.copytree(REPOSITORY / "kheadersd" / name, copy / name)
        shutil.copy(REPOSITORY / "kheadersd/__init__.py", copy)
        compileall.compile_dir(copy, quiet=1)
        yield copy


@needs_root("only root's files are put before a tool")
@pytest.mark.parametrize(
    "name",
    [
        "data/site/sitecustomize.py",
        "precompiled/hook.py",
        "precompiled/__pycache__",
        "__init__.py",
        "__pycache__/__init__.*.pyc",
    ],
)
def test_what_others_can_write_to_is_not_run(package: Path, name: str) -> None:
    assert environment("", dropped=False, session=False, package=package)["PYTHONPATH"].startswith(
        f"{package}/data/site"
    )
    (path,) = package.glob(name)
    os.chown(path, 65534, 65534)
    with pytest.raises(InvalidArgs, match="belongs to the user 65534, and not to root"):
        environment("", dropped=False, session=False, package=package)
