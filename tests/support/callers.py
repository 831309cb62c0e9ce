"""Callers of other users, and callers that do not wait: for the tests of what strangers may do."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pwd
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import encode
from kheadersd.errors import FREEDESKTOP_ERRORS
from tests.support.raw import HERE, RawClient, Reply
from tests.support.running import Daemon

HEADERS = "sa{sv}"
NO_OPTIONS: dict[str, Any] = {}
MEBIBYTE = 1 << 20


def error(name: str) -> str:
    return FREEDESKTOP_ERRORS + name


@contextlib.contextmanager
def client(path: Path, user: str = "root") -> Iterator[RawClient]:
    """A raw connection to the bus, as another user if told so."""
    connected = connect(path, user)
    try:
        yield connected
    finally:
        connected.close()


def connect(path: Path, user: str = "root") -> RawClient:
    """As `client`; the caller closes it. The kernel tells the bus who we were when we connected."""
    if user == "root":
        return RawClient(path)
    uid = pwd.getpwnam(user).pw_uid
    os.setresuid(uid, uid, 0)
    try:
        return RawClient(path)
    finally:
        os.setresuid(0, 0, 0)


def frames(
    fields: wire.Fields, bodies: Iterable[bytes], *, no_reply: bool = False, first: int = 10
) -> Iterator[bytes]:
    """Method calls with these bodies, a few hundred at a time."""
    flags = wire.NO_REPLY_EXPECTED if no_reply else 0
    pieces: list[bytes] = []
    for serial, body in enumerate(bodies, first):
        pieces.append(wire.method_call(serial, fields, body, flags))
        if len(pieces) == 400:
            yield b"".join(pieces)
            pieces.clear()
    yield b"".join(pieces)


def headers_of(member: str, releases: Iterable[str]) -> tuple[wire.Fields, list[bytes]]:
    """Calls of a method that takes a release and options."""
    fields = HERE._replace(member=member, signature=HEADERS)
    return fields, [_body(release) for release in releases]


@functools.lru_cache(maxsize=4)
def _body(release: str) -> bytes:
    return encode(HEADERS, [release, NO_OPTIONS])


def acquire(caller: RawClient, release: str = "", **options: Any) -> int:
    """Acquire a lease.

    Returns:
        The descriptor, which is the caller's to close.
    """
    fields = HERE._replace(member="Acquire", signature=HEADERS)
    serial = caller.send(fields, encode(HEADERS, [release, options]))
    descriptors: list[int] = []
    while not descriptors:
        data, descriptors, _, _ = socket.recv_fds(caller.socket, 1 << 16, 1)
        caller.data += data
    assert caller.reply(serial).name == ""
    (descriptor,) = descriptors
    return descriptor


class Flood:
    """Sends as fast as the bus takes it, and reads the answers or leaves them unread.

    Attributes:
        returns, errors: how many answers came.
    """

    def __init__(self, caller: RawClient, data: Iterable[bytes], *, reads: bool = True) -> None:
        self.returns = self.errors = 0
        self._caller = caller
        self._data = iter(data)
        self._reads = reads
        self._seen = bytearray(caller.data)
        self._unsent = memoryview(b"")
        self._sent_all = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._caller.socket.setblocking(False)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._caller.socket.settimeout(20)
        if self._failure is not None:
            raise self._failure

    @property
    def sending(self) -> bool:
        return not self._sent_all.is_set() and self._thread.is_alive()

    def answered(self, count: int) -> bool:
        """Whether so many answers came, or none can come any more."""
        return self.returns + self.errors >= count or not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except BaseException as failure:  # noqa: BLE001 - raised where the flood ends
            self._failure = failure
        finally:
            self._sent_all.set()

    def _step(self) -> None:
        if not self._unsent:
            self._unsent = memoryview(next(self._data, b""))
            if not self._unsent:
                self._sent_all.set()
        reading = [self._caller.socket] if self._reads else []
        writing = [self._caller.socket] if self._unsent else []
        readable, writable, _ = select.select(reading, writing, [], 0.05)
        if writable:
            self._unsent = self._unsent[self._caller.socket.send(self._unsent) :]
        if readable:
            data = self._caller.socket.recv(1 << 20)
            if not data:
                raise EOFError("the bus ended the connection")
            self._seen += data
            self._count()

    def _count(self) -> None:
        at = 0
        while len(self._seen) - at >= wire.PREFIX:
            body, _, fields = struct.unpack_from("<III", self._seen, at + 4)
            total = wire.PREFIX + (fields + 7 & ~7) + body
            if len(self._seen) - at < total:
                break
            kind = self._seen[at + 1]
            self.returns += kind == wire.METHOD_RETURN
            self.errors += kind == wire.ERROR
            at += total
        del self._seen[:at]


@dataclasses.dataclass
class Watch:
    """Looks at a daemon from beside a caller with no manners.

    Attributes:
        longest: seconds that the slowest answer took so far.
    """

    daemon: Daemon
    caller: RawClient
    longest: float = 0.0
    asked: int = 0

    def ask(self, member: str = "Lookup", signature: str = "s", *values: Any) -> Reply:
        """A call of a caller with manners, timed."""
        started = time.monotonic()
        reply = self.caller.call(member, signature, values or ([""] if signature else []))
        self.longest = max(self.longest, time.monotonic() - started)
        self.asked += 1
        return reply

    def keep_asking(self, condition: Callable[[], bool], patience: float = 60) -> None:
        """Ask for what is there as long as the condition holds."""
        deadline = time.monotonic() + patience
        self.answers()
        while condition():
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.01)
            self.answers()

    def answers(self) -> None:
        assert self.ask().name == ""


@contextlib.contextmanager
def unharmed(daemon: Daemon, caller: RawClient, *, within: float = 15.0, growth: int = 4) -> Iterator[Watch]:
    """The daemon answers others meanwhile, and is afterwards as it was: no descriptor more, memory nearly.

    Args:
        caller: the other one.
        within: seconds. The goal is one, and a busy machine is busy; this is to find what never comes.
        growth: MiB.
    """
    watch = Watch(daemon, caller)
    watch.answers()
    descriptors = _settled(daemon.descriptors)
    pid, memory = daemon.pid, daemon.memory()
    yield watch
    watch.answers()
    _wait_until(lambda: daemon.descriptors() <= descriptors)
    # Of what was freed the allocator gives back some only when it is used again.
    _wait_until(lambda: daemon.memory() - memory < growth * MEBIBYTE)
    grown = daemon.memory() - memory
    print(  # noqa: T201 - a measurement
        f"slowest of {watch.asked} answers {watch.longest:.3f} s, memory {grown >> 10:+} KiB, "
        f"peak {daemon.memory('VmHWM') >> 10} KiB"
    )
    assert daemon.process is not None
    assert daemon.process.poll() is None
    assert daemon.pid == pid
    open_now = daemon.descriptors()
    assert open_now <= descriptors, f"{descriptors} descriptors were open, and {open_now} are"
    assert watch.longest < within
    assert grown < growth * MEBIBYTE


def _settled(count: Callable[[], int]) -> int:
    """A count once it has stayed the same for a while: new entries are still made durable."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.02)
        if (now := count()) != last:
            last, since = now, time.monotonic()
    return last


def _wait_until(condition: Callable[[], bool], patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def ask_for_headers(caller: RawClient, *, flags: int = 0) -> int:
    fields = HERE._replace(member="GetHeaders", signature=HEADERS)
    return caller.send(fields, encode(HEADERS, ["", NO_OPTIONS]), flags=flags)
