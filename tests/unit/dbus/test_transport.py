"""Descriptors belong to the message that they came with, whatever became of those before it."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.transport import SERVICE_MESSAGE, Stream, close_descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kheadersd.dbus.transport import Message

FIELDS = wire.Fields(path="/a", member="M", signature="h", unix_fds=1)
CALL = wire.method_call(7, FIELDS, bytes(4))
UNKNOWN_KIND = CALL[:1] + b"\x09" + CALL[2:]
MALFORMED = CALL[:17] + b"\x02" + CALL[18:]
LARGE_HEADER = wire.method_call(7, FIELDS._replace(path="/" + "a" * (2 << 20)), bytes(4))
LARGE_BODY = wire.method_call(7, FIELDS, bytes(2 * SERVICE_MESSAGE))
UNDECLARED = wire.method_call(7, FIELDS._replace(unix_fds=0), bytes(4))


class Receiver:
    """Keeps what comes in."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.refused: list[Message] = []
        self.arrived = asyncio.Event()

    def message_received(self, message: Message) -> None:
        self.received.append(message)
        if message.serial == 8:
            self.arrived.set()

    def message_refused(self, message: Message) -> None:
        self.refused.append(message)

    def stream_lost(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.fixture
async def bus() -> AsyncIterator[tuple[socket.socket, Receiver]]:
    """The bus's end of a connection, and who listens at ours."""
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    receiver = Receiver()
    stream = Stream(asyncio.get_running_loop(), ours, receiver)
    yield theirs, receiver
    stream.close()
    theirs.close()
    for message in receiver.received:
        close_descriptors(message.descriptors)


def same_file(one: int, other: int) -> bool:
    return os.path.sameopenfile(one, other)


def send(bus: socket.socket, frame: bytes, descriptor: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
    sent = bus.sendmsg([frame], [rights])
    bus.sendall(frame[sent:])


@pytest.mark.parametrize(
    "passed_over",
    [UNKNOWN_KIND, MALFORMED, LARGE_HEADER, LARGE_BODY, UNDECLARED],
    ids=["kind", "malformed", "large-header", "large-body", "undeclared"],
)
async def test_descriptors_of_what_is_passed_over(
    bus: tuple[socket.socket, Receiver], passed_over: bytes
) -> None:
    theirs, receiver = bus
    first, second = os.pipe(), os.pipe()
    plain = wire.method_call(6, FIELDS._replace(unix_fds=0), bytes(4))
    theirs.sendall(plain)
    await asyncio.to_thread(send, theirs, passed_over, first[1])
    theirs.sendall(plain)
    send(theirs, wire.method_call(8, FIELDS, bytes(4)), second[1])
    await asyncio.wait_for(receiver.arrived.wait(), 10)
    os.close(first[1])
    os.set_blocking(first[0], False)
    assert os.read(first[0], 1) == b""  # every copy is closed
    (descriptor,) = receiver.received[-1].descriptors
    assert same_file(descriptor, second[1])
    assert not any(message.descriptors for message in (*receiver.received[:-1], *receiver.refused))
    close_descriptors((first[0], *second))


async def test_a_message_in_pieces_and_its_neighbours(bus: tuple[socket.socket, Receiver]) -> None:
    theirs, receiver = bus
    reader, writer = os.pipe()
    frame = wire.method_call(8, FIELDS, bytes(4))
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer]))
    theirs.sendall(wire.method_call(6, FIELDS._replace(unix_fds=0), bytes(4)))
    theirs.sendmsg([frame[:5]], [rights])
    await asyncio.sleep(0.02)
    theirs.sendall(frame[5:30])
    await asyncio.sleep(0.02)
    theirs.sendall(frame[30:] + wire.method_call(9, FIELDS._replace(unix_fds=0), bytes(4)))
    await asyncio.wait_for(receiver.arrived.wait(), 10)
    before, message = receiver.received[:2]
    assert list(before.descriptors) == []
    assert same_file(message.descriptors[0], writer)
    close_descriptors((reader, writer))


class Portions(Receiver):
    """Keeps the number of the portion of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: Stream | None = None
        self.numbers: list[int] = []

    def message_received(self, message: Message) -> None:
        assert self.stream is not None
        self.numbers.append(self.stream.portion)
        super().message_received(message)


async def test_messages_that_came_in_together_are_a_portion_and_no_others_are() -> None:
    """Also not those of another connection: what was found for the last one of the old holds no more."""
    call = wire.method_call(7, FIELDS._replace(unix_fds=0), bytes(4))
    last = wire.method_call(8, FIELDS._replace(unix_fds=0), bytes(4))
    seen: list[int] = []
    for _ in range(2):
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        receiver = Portions()
        receiver.stream = stream = Stream(asyncio.get_running_loop(), ours, receiver)
        theirs.sendall(call + call + call[:20])
        await asyncio.sleep(0.02)
        theirs.sendall(call[20:] + last)
        await asyncio.wait_for(receiver.arrived.wait(), 10)
        assert stream.portion == 0
        first, second, third, fourth = receiver.numbers
        assert first == second != third == fourth
        seen += [first, third]
        stream.close()
        theirs.close()
    assert 0 not in seen
    assert len(set(seen)) == 4
