"""The service manager's end of the socket that services notify it by."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


@pytest.fixture
def environment(listening: socket.socket) -> dict[str, str]:
    return {"NOTIFY_SOCKET": listening.getsockname(), "HOME": "/"}


def received(listening: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(listening.recv(4096).decode())
    except BlockingIOError:
        return messages
