"""What a command line means, and which ones are refused."""

from __future__ import annotations

import os

import pytest

from kheadersd.cli.arguments import parse


def test_what_is_left_out() -> None:
    options = parse(["get"])
    assert (options.release, options.source, options.refresh) == ("", None, False)
    assert (options.session, options.json) == (False, False)


def test_options_before_and_after_the_command() -> None:
    assert parse(["--json", "--session", "list"]).json
    assert parse(["list", "--json"]).json
    assert parse(["--session", "list", "--json"]).session


def test_the_words_of_a_command_are_its_own() -> None:
    assert parse(["exec", "--", "tool", "--json", "--", "-x"]).command == ["tool", "--json", "--", "-x"]
    options = parse(["exec", "tool", "--json", "--", "-x"])
    assert (options.command, options.json) == (["tool", "--json", "--", "-x"], False)


def test_flags_of_the_compiler() -> None:
    assert parse(["cc", "a.c", "--", "-DA", "--", "-g"]).flags == ["-DA", "--", "-g"]
    assert parse(["cc", "a.c"]).flags == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["exec"], "exec needs a command"),
        (["exec", "--", ""], "exec needs a command"),
        (["get", "../x"], "not a kernel release"),
        (["pch", os.fsdecode(b"\xff")], "is not valid UTF-8"),
        (["pch", "types", "--header", os.fsdecode(b"\xff.h")], "is not valid UTF-8"),
        (["get", "--ref"], "unrecognized arguments"),
        (["push", "--new", "--pchs"], "no other option than --within"),
        (["push", "--new", "--types"], "no other option than --within"),
        (["push", "--new", "--replace"], "no other option than --within"),
        (["push", "--new", "6.1"], "takes no release"),
        (["push", "6.1"], "needs a release and a repository"),
        (["push", "6.1", "registry.example.org/kernels:tag", "--pchs"], "is no repository"),
    ],
)
def test_mistakes(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
