"""Reading files that others made."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from kheadersd.system.files import NotRegular, NotText, TooLarge, opened, read_file, read_start, read_text


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [_fifo, _directory, _socket, _zeros])
def test_what_is_not_regular_is_refused_at_once(tmp_path: Path, make: object) -> None:
    path = tmp_path / "thing"
    assert callable(make)
    make(path)
    for read in (lambda: read_file(path, 100), lambda: read_start(path, 100), lambda: read_text(path)):
        with pytest.raises(NotRegular, match="and not a regular file"):
            read()


def test_a_device_is_not_even_opened(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root: only root makes devices")
    device = tmp_path / "watchdog"
    os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(5, 0))  # without a terminal, opening it is ENXIO
    with pytest.raises(NotRegular, match="a device") as caught:
        read_file(device, 1)
    assert caught.value.errno == errno.EINVAL


def test_a_link_is_followed_unless_it_must_not_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 7) == b"content"
    with pytest.raises(NotRegular, match="a symlink"), opened(tmp_path / "link", follow=False):
        pass


def test_a_file_is_read_up_to_the_limit_and_no_further(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert read_file(path, 8) == b"12345678"
    with pytest.raises(TooLarge, match="more than 7 bytes"):
        read_file(path, 7)
    assert read_start(path, 3) == b"123"
    assert read_start(path, 100) == b"12345678"


def test_a_sparse_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(TooLarge):
        read_file(tmp_path / "sparse", 1 << 30)
    assert read_start(tmp_path / "sparse", 4) == bytes(4)


def test_pseudo_files_are_read_although_they_have_no_size() -> None:
    assert os.stat("/proc/self/status").st_size == 0
    assert read_text("/proc/self/status").startswith("Name:")
    with pytest.raises(TooLarge):
        read_file("/proc/self/status", 10)


def test_bytes_that_are_no_text_are_an_error_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("é\xff".encode("latin-1"))
    with pytest.raises(NotText, match="not utf-8 text") as caught:
        read_text(path)
    assert isinstance(caught.value, OSError)


def test_a_path_starts_from_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert read_file("file", 100, directory=directory) == b"content"
    finally:
        os.close(directory)
