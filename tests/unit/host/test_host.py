"""Which kernel runs on a host, and what is read of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kheadersd.errors import InvalidArgs, NotAvailable
from kheadersd.host.host import Host
from tests.support.needs import needs_root


def _osrelease(root: Path) -> Path:
    path = root / "proc/sys/kernel/osrelease"
    path.parent.mkdir(parents=True)
    return path


def test_this_machine_runs_what_uname_says() -> None:
    assert Host().release_of("") == os.uname().release
    assert Host().running_unknown == ""


def test_an_image_runs_what_its_proc_says(tmp_path: Path) -> None:
    _osrelease(tmp_path).write_text("6.1.0-я дро \n")
    assert Host(tmp_path).running == "6.1.0-я дро "


def test_an_image_without_a_kernel_does_not_run_this_machines(tmp_path: Path) -> None:
    host = Host(tmp_path)
    assert host.running is None
    with pytest.raises(NotAvailable, match="osrelease: No such file or directory; name the release"):
        host.release_of("")
    assert host.release_of("6.1") == "6.1"
    assert host.running_kernel == "an unknown kernel"


def _directory(path: Path) -> None:
    path.mkdir()


def _zeros(path: Path) -> None:
    path.symlink_to("zero")
    os.mknod(path.with_name("zero"), 0o020666, os.makedev(1, 5))


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


@needs_root("only root makes devices")
@pytest.mark.parametrize(
    "put",
    [
        os.mkfifo,
        _directory,
        _zeros,
        _sparse,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_bytes(b"6.1\n6.2\n"),
        lambda path: path.write_bytes(b"a/b\n"),
        lambda path: path.write_bytes(b"x" * 65),
    ],
)
def test_whatever_is_in_the_place_of_osrelease_and_notes_a_host_is_made(
    tmp_path: Path, put: Callable[[Path], object]
) -> None:
    put(_osrelease(tmp_path))
    (tmp_path / "sys/kernel").mkdir(parents=True)
    put(tmp_path / "sys/kernel/notes")
    host = Host(tmp_path)
    assert (host.running, host.build_id) == (None, "")
    assert "osrelease: " in host.running_unknown


def test_names_that_are_no_releases_are_no_kernels(tmp_path: Path) -> None:
    modules = os.fsencode(tmp_path / "lib/modules")
    for name in (b"6.1", "6.1-я".encode(), b"-rf", b"bad\xff", b"bad\n", b"x" * 65):
        os.makedirs(modules + b"/" + name + b"/kernel")
    assert Host(tmp_path).installed_releases() == {"6.1", "6.1-я", "-rf"}
    with pytest.raises(InvalidArgs):
        Host(tmp_path).release_of("x" * 65)
