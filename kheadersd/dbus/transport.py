# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bytes of a connection: frames in, frames out, on a non-blocking socket in the event loop.

Nothing that a program on the bus sends may block the loop, grow memory or keep a descriptor open: reading
is done in small portions, oversized messages are refused from their header alone, and a full socket stops
reading until the answers have left.
"""

from __future__ import annotations

import array
import collections
import contextlib
import itertools
import os
import socket
import time
from typing import TYPE_CHECKING, Protocol

from . import frames as wire

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

SERVICE_MESSAGE = 16 << 10
"""Bytes of the largest message that a service needs to read: a hundred times an ordinary call."""

_READ_SIZE = 64 << 10
_MAX_DESCRIPTORS = 253  # SCM_MAX_FD of the kernel
_ANCILLARY_SIZE = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)  # plain: enums are slow
_MESSAGES_AT_ONCE = 64
_SECONDS_AT_ONCE = 0.005
_MAX_HEADER = 1 << 20  # a larger one (a path of a megabyte) cannot even be answered, and is passed over
_HIGH_WATER = 1 << 20
_LOW_WATER = 256 << 10
_HARD_CAP = 64 << 20
_JOINED = 64 << 10
_portions = itertools.count(1)


class Message:
    """A message that has come in. The receiver closes its descriptors."""

    __slots__ = ("big_endian", "body", "descriptors", "fields", "flags", "kind", "serial")

    def __init__(
        self, kind: int, flags: int, serial: int, fields: wire.Fields, body: bytes, *, big_endian: bool
    ) -> None:
        self.kind = kind
        self.flags = flags
        self.serial = serial
        self.fields = fields
        self.body = body
        self.big_endian = big_endian
        self.descriptors: Sequence[int] = ()


class Receiver(Protocol):
    """What a stream calls. None of these may raise or block."""

    def message_received(self, message: Message) -> None:
        """A message has come in."""

    def message_refused(self, message: Message) -> None:
        """A message was larger than the cap: its body has not been read and is empty here."""
        ...

    def stream_lost(self, reason: str) -> None:
        """The stream has ended, by itself. Called at most once."""
        ...


class Stream:
    """Reads and writes frames on an authenticated socket, which it owns from now on.

    Attributes:
        portion: the number of the messages that are being handled, which no other messages of this process
            have; 0 between them. All had come in before the first of them was handled, and nothing else runs
            in the loop meanwhile: what is found out for one of them holds for the others.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connected: socket.socket,
        receiver: Receiver,
        *,
        max_message: int = SERVICE_MESSAGE,
    ) -> None:
        self._loop = loop
        self._socket = connected
        self._fd = connected.fileno()
        self._receiver = receiver
        self._max_message = max_message
        self._open = True
        self.portion = 0
        # Reading. The kernel never joins two batches of descriptors in one read, and ends the read with the
        # piece that one came with: a batch belongs to the message that has the last byte of its read. Each is
        # kept with the position in the stream behind that byte.
        self._into = [memoryview(bytearray(_READ_SIZE))]
        self._data = bytearray()
        self._received = 0
        self._skip = 0
        self._batches: collections.deque[tuple[int, list[int]]] = collections.deque()
        self._continuation: asyncio.Handle | None = None
        self._paused = False
        # Writing
        self._queue: collections.deque[tuple[bytes | memoryview, Sequence[int]]] = collections.deque()
        self._queued_bytes = 0
        self._writing = False
        self._drained: asyncio.Future[None] | None = None
        loop.add_reader(self._fd, self._on_readable)

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands."""
        return self._open

    def send(self, frame: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame, now or when there is room. Its descriptors are closed once it is sent or lost."""
        if not self._open:
            close_descriptors(descriptors)
            return
        self._queue.append((frame, descriptors))
        self._queued_bytes += len(frame)
        if not self.portion:  # answers to one portion leave together
            self._flush()
        if self._queued_bytes > _HIGH_WATER:
            self._pause()

    async def drain(self) -> None:
        """Wait until all that was sent has left, or the stream has ended."""
        while self._open and self._queue:
            if self._drained is None:
                self._drained = self._loop.create_future()
            await self._drained

    def close(self) -> None:
        """End the stream without a report, closing all that it holds."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        if self._continuation is not None:
            self._continuation.cancel()
        self._socket.close()
        for _, descriptors in self._queue:
            close_descriptors(descriptors)
        self._queue.clear()
        for _, batch in self._batches:
            close_descriptors(batch)
        self._batches.clear()
        self._data.clear()
        self._wake_drainers()

    def _lose(self, reason: str) -> None:
        if self._open:
            self.close()
            self._receiver.stream_lost(reason)

    # Reading

    def _on_readable(self) -> None:
        if self._continuation is None:
            self._read()

    def _continue(self) -> None:
        self._continuation = None
        self._read()

    def _read(self) -> None:
        """Handle a portion of what has come in; the rest waits until the loop has looked after others."""
        if self._paused or not self._open:
            return
        self.portion = next(_portions)
        try:
            self._read_portion()
        except ValueError as error:
            self._lose(f"the bus sent what is not D-Bus: {error}")
        finally:
            self.portion = 0
        if self._open and self._queue:
            self._flush()

    def _read_portion(self) -> None:
        deadline = time.monotonic() + _SECONDS_AT_ONCE
        budget = _MESSAGES_AT_ONCE
        more = True
        while True:
            budget = self._handle_frames(budget, deadline)
            if self._paused or not self._open:
                return
            if not more and not self._data:
                return
            if budget <= 0:
                self._continuation = self._loop.call_soon(self._continue)
                return
            if not more:
                return  # the rest of a frame is still to come, and the loop will call
            more = self._receive()

    def _receive(self) -> bool:
        """Read once; whether there may be more at once."""
        try:
            size, ancillary, _, _ = self._socket.recvmsg_into(self._into, _ANCILLARY_SIZE, _CLOSE_ON_EXEC)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(f"reading from the bus failed: {error.strerror}")
            return False
        self.portion = next(_portions)
        self._received += size
        if ancillary:
            self._batches.append((self._received, _descriptors(ancillary)))
        if not size:
            self._lose("the bus closed the connection")
            return False
        self._data += self._into[0][:size]
        return size == _READ_SIZE  # a shorter read has emptied the socket; else the loop calls again

    def _handle_frames(self, budget: int, deadline: float) -> int:
        """Handle the complete frames that are there, as far as the budget goes; return what is left of it."""
        data = self._data
        if not data:
            return budget
        at = 0
        first = self._received - len(data)
        try:
            while budget > 0 and not self._paused and self._open:
                step = min(self._skip, len(data) - at)
                at += step
                self._skip -= step
                if self._skip or len(data) - at < wire.PREFIX:
                    break
                start = at
                size = wire.measure(data, start)
                total = size.header + size.body
                oversized = total > self._max_message
                if oversized and size.header > _MAX_HEADER:
                    self._skip = total
                    if self._batches:
                        close_descriptors(self._take_batch(first + start + total))
                    continue
                needed = size.header if oversized else total
                if len(data) - start < needed:
                    break
                at += needed
                if oversized:
                    self._skip = size.body
                batch = self._take_batch(first + start + total) if self._batches else ()
                self._handle_frame(data, start, size, oversized=oversized, batch=batch)
                budget = budget - 1 if time.monotonic() < deadline else 0
        finally:
            if at and self._open:
                del data[:at]
        return budget

    def _handle_frame(
        self, data: bytearray, at: int, size: wire.Size, *, oversized: bool, batch: Sequence[int]
    ) -> None:
        message = _parse(data, at, size, oversized=oversized)
        if message is None:  # the frame's end is known, so that what follows can still be understood
            close_descriptors(batch)
            return
        # All or none: the process may have been out of descriptors when they came.
        if oversized or len(batch) != message.fields.unix_fds:
            close_descriptors(batch)
        else:
            message.descriptors = batch
        if oversized:
            self._receiver.message_refused(message)
        else:
            self._receiver.message_received(message)

    def _take_batch(self, end: int) -> list[int]:
        """The descriptors of the message that ends at the position ``end``."""
        taken: list[int] = []
        while self._batches and self._batches[0][0] <= end:
            taken += self._batches.popleft()[1]
        return taken

    def _pause(self) -> None:
        if self._open and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._fd)

    def _resume(self) -> None:
        if self._open and self._paused:
            self._paused = False
            self._loop.add_reader(self._fd, self._on_readable)
            if self._continuation is None:
                self._continuation = self._loop.call_soon(self._continue)

    # Writing

    def _flush(self) -> None:
        try:
            while self._queue:
                self._write_some()
        except (BlockingIOError, InterruptedError):
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._flush)
        except OSError as error:
            self._lose(f"writing to the bus failed: {error.strerror}")
            return
        if self._queued_bytes > _HARD_CAP:
            self._lose(f"the bus has left {self._queued_bytes} bytes of messages unread")
            return
        if not self._queue:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._fd)
            self._wake_drainers()
        if self._paused and self._queued_bytes <= _LOW_WATER:
            self._resume()

    def _write_some(self) -> None:
        """Send the first message that has descriptors, or the first few that have none.

        Raises:
            OSError: nothing was sent; EAGAIN if the socket is full.
        """
        queue = self._queue
        frame, descriptors = queue[0]
        if descriptors:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            sent = self._socket.sendmsg([frame], [rights])
            queue.popleft()
            close_descriptors(descriptors)  # they went with the first byte
        elif len(queue) == 1:
            sent = self._socket.send(frame)
            queue.popleft()
        else:
            frame, count = self._joined()
            sent = self._socket.send(frame)
            for _ in range(count):
                queue.popleft()
        self._queued_bytes -= sent
        if sent < len(frame):
            queue.appendleft((memoryview(frame)[sent:], ()))

    def _joined(self) -> tuple[bytes | memoryview, int]:
        """The first frames without descriptors as one piece, and how many they are."""
        frames: list[bytes | memoryview] = []
        size = 0
        for frame, descriptors in self._queue:
            if descriptors or (frames and size + len(frame) > _JOINED):
                break
            frames.append(frame)
            size += len(frame)
        return (frames[0] if len(frames) == 1 else b"".join(frames)), len(frames)

    def _wake_drainers(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)


def _parse(data: bytearray, at: int, size: wire.Size, *, oversized: bool) -> Message | None:
    """The message at ``at``, without its body if that was not read; None if it is malformed."""
    kind = data[at + 1]
    if not wire.METHOD_CALL <= kind <= wire.SIGNAL:
        return None
    parse = wire.parse_call_fields if kind == wire.METHOD_CALL else wire.parse_fields
    big_endian = data[at] == 0x42
    start = at + wire.PREFIX
    try:
        fields = parse(bytes(data[start : start + size.fields]), big_endian=big_endian)
    except ValueError:
        return None
    body_at = at + size.header
    body = b"" if oversized else bytes(data[body_at : body_at + size.body])
    return Message(kind, data[at + 2], size.serial, fields, body, big_endian=big_endian)


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) // found.itemsize * found.itemsize])
    return list(found)


def close_descriptors(descriptors: Sequence[int]) -> None:
    """Close descriptors; those that are closed already do no harm."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
