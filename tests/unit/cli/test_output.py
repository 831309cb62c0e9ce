"""How kheadersctl prints: lines of reasons, quantities, variables of shells, and the file of cc."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kheadersd.cli.output import assignment, by_source, count, moment
from kheadersd.cli.output_file import put
from tests.support.running import REPOSITORY


def test_a_line_for_each_source() -> None:
    text = (
        "no source has headers for 6.1: tree: there is none; see: above; sysfs: no file; "
        "to have them: 'apt install linux-headers-6.1' installs them"
    )
    assert by_source(text).splitlines() == [
        "no source has headers for 6.1:",
        "  tree: there is none; see: above",
        "  sysfs: no file",
        "  to have them: 'apt install linux-headers-6.1' installs them",
    ]


@pytest.mark.parametrize("text", ["tree: only one", "a: b; c: d", ""])
def test_other_text_is_unchanged(text: str) -> None:
    assert by_source(text) == text


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_can_be_closed(closed: str) -> None:
    """Messages never go to stdout, and the exit code is the same."""
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "kheadersd.cli", "get"],
        cwd=REPOSITORY,
        env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "" if "2" in closed else done.stderr.startswith("kheadersctl: no system bus")


def test_quantities() -> None:
    assert (count(1, "entry", "entries"), count(2, "entry", "entries"), count(0, "file")) == (
        "1 entry",
        "2 entries",
        "0 files",
    )
    assert moment(0) == "-"


@pytest.mark.parametrize(
    ("shell", "line"),
    [("sh", "export A='b c'"), ("fish", "set -gx A 'b c'"), ("systemd", 'A="b c"')],
)
def test_variables(shell: str, line: str) -> None:
    assert assignment(shell, "A", "b c") == line


def test_what_each_shell_would_expand() -> None:
    assert assignment("systemd", "A", 'a"$`\\') == 'A="a\\"\\$\\`\\\\"'
    assert assignment("fish", "A", "a'\\") == "set -gx A 'a\\'\\\\'"


def test_a_link_is_replaced(tmp_path: Path) -> None:
    new, precious, output = tmp_path / "new", tmp_path / "precious", tmp_path / "out.o"
    new.write_bytes(b"object")
    precious.write_bytes(b"mine")
    output.symlink_to(precious)
    put(new, output)
    assert (output.is_symlink(), output.read_bytes(), precious.read_bytes()) == (False, b"object", b"mine")
    mask = os.umask(0)
    os.umask(mask)
    assert output.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    new, pipe = tmp_path / "new", tmp_path / "pipe"
    new.write_bytes(b"object")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        put(new, pipe)
        assert os.read(reader, 100) == b"object"
    finally:
        os.close(reader)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    new = tmp_path / "new"
    new.write_bytes(b"object")
    with pytest.raises(OSError, match="directory"):
        put(new, tmp_path / "directory")
    assert {path.name for path in tmp_path.iterdir()} == {"directory", "new"}
