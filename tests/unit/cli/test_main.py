"""What kheadersctl says where something fails that no command expects."""

from __future__ import annotations

import argparse
import errno
import io

import pytest

from kheadersd.cli import __main__ as program


class Full(io.StringIO):
    """An output on a file system without room."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_not_the_output_is_not_called_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "/some/file")

    monkeypatch.setattr(program, "_run", fail)
    assert program.main(["get"]) == 1
    assert capsys.readouterr().err == "kheadersctl: /some/file: Permission denied\n"


def test_the_output_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "_run", lambda _: 0)
    monkeypatch.setattr(program, "_drop_output", lambda: None)
    monkeypatch.setattr("sys.stdout", Full())
    assert program.main(["get"]) == 1
    assert capsys.readouterr().err == "kheadersctl: cannot write the output: No space left on device\n"
