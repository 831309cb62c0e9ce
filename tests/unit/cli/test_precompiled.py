"""What a tool's environment is, and which tools do not look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheadersd.cli.precompiled import ignores_path


@pytest.mark.parametrize(
    ("command", "ignores"),
    [
        (["python3", "tool"], False),
        (["python3", "-I", "tool"], True),
        (["/usr/bin/python3.13", "-sE", "-c", "x"], True),
        (["python3", "-c", "-I"], False),
        (["python3", "-W", "error", "-I", "tool"], False),  # in doubt, it is tried
        (["python3", "tool", "-I"], False),
        (["python3", "--version"], False),
        (["no-such-command", "-I"], False),
        (["/bin/true", "-I"], False),
    ],
)
def test_options(command: list[str], ignores: bool) -> None:
    assert ignores_path(command) is ignores


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
    assert ignores_path([str(tool), "-I"]) is ignores
