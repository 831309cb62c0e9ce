"""What other programs may do to the service without harm to it or its other callers."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING, Any

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.call_limits import PER_SENDER, PER_USER
from tests.support.callers import client as connected
from tests.support.dbus_service import TREE
from tests.support.needs import needs_root
from tests.support.raw import HERE, RawClient, Reply

if TYPE_CHECKING:
    from tests.support.dbus_rig import Bus, Service

pytestmark = pytest.mark.slow

MEBIBYTE = 1 << 20
GET_HEADERS = HERE._replace(member="GetHeaders", signature="s")
SLOW = HERE._replace(member="Slow", signature="u")
BODY = struct.pack("<I", 1) + b"x\0"


def slow_for(milliseconds: int) -> bytes:
    return struct.pack("<I", milliseconds)


def check_alive(bus: Bus, within: float = 20.0) -> float:
    """Another caller is answered; return in how many seconds."""
    other = RawClient(bus.socket)
    started = time.monotonic()
    assert other.call("GetHeaders", "s", ["x"]) == Reply("", [TREE])
    took = time.monotonic() - started
    other.close()
    assert took < within
    return took


def counters(client: RawClient) -> tuple[int, int, int, float]:
    """Work started, calls waiting, calls cancelled, the longest pause of the loop since last asked."""
    started, waiting, cancelled, gap = client.call("Counters").values
    return started, waiting, cancelled, gap


def test_flood_without_waiting(bus: Bus, client: RawClient, service: Service) -> None:
    other = RawClient(bus.socket)
    before = service.resident()
    frames = b"".join(
        wire.method_call(serial, GET_HEADERS, BODY, wire.NO_REPLY_EXPECTED) for serial in range(2, 1002)
    )
    longest = 0.0
    for _ in range(100):
        client.socket.sendall(frames)
        started = time.monotonic()
        assert other.call("GetHeaders", "s", ["x"]).name == ""
        longest = max(longest, time.monotonic() - started)
    assert longest < 10
    assert counters(other)[3] < 5
    assert service.resident() - before < 4 * 1024
    other.close()


def test_flood_of_tasks_is_limited(bus: Bus, client: RawClient) -> None:
    for _ in range(PER_SENDER + 76):
        client.send(SLOW, slow_for(2000))
    check_alive(bus)
    replies = [client.next_reply().error_name for _ in range(PER_SENDER + 76)]
    assert replies[:76] == ["org.freedesktop.DBus.Error.LimitsExceeded"] * 76
    assert replies[76:] == [""] * PER_SENDER


def test_thousand_waiters_finish_together(bus: Bus, client: RawClient) -> None:
    fields = HERE._replace(member="Coalesced", signature="s")
    serials = {client.send(fields, BODY) for _ in range(1000)}
    answered = set()
    for _ in range(1000):
        answer = client.next_reply()
        assert not answer.error_name
        answered.add(answer.reply_serial)
    assert answered == serials
    assert counters(client)[0] == 1
    check_alive(bus)


def test_client_that_never_reads(bus: Bus, client: RawClient, service: Service) -> None:
    fields = HERE._replace(member="Large", signature="u")
    for _ in range(200):
        client.send(fields, struct.pack("<I", 256 << 10))  # 50 MiB of answers
    for _ in range(3):
        check_alive(bus)
    client.close()
    check_alive(bus)
    assert service.resident() < 64 * 1024


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("s", struct.pack("<I", 24 * MEBIBYTE) + b"a" * (24 * MEBIBYTE) + b"\0"),
        ("ay", struct.pack("<I", 24 * MEBIBYTE) + bytes(24 * MEBIBYTE)),
        ("av", struct.pack("<I", 8 * MEBIBYTE) + b"\1y\0\0" * (2 * MEBIBYTE)),
        ("s", struct.pack("<I", 16 << 10) + b"a" * (16 << 10) + b"\0"),
    ],
    ids=["s", "ay", "av", "just-too-large"],
)
def test_large_message(bus: Bus, client: RawClient, service: Service, signature: str, body: bytes) -> None:
    before = service.resident()
    serial = client.send(HERE._replace(member="GetHeaders", signature=signature), body)
    check_alive(bus)
    assert client.reply(serial).name == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert client.call("GetHeaders", "s", ["x"]) == Reply("", [TREE])
    assert counters(client)[3] < 5
    assert service.resident() - before < 2 * 1024


def test_long_path(bus: Bus, client: RawClient) -> None:
    serial = client.send(GET_HEADERS._replace(path="/a" * (20 << 10)), BODY)
    assert client.reply(serial).name == "org.freedesktop.DBus.Error.LimitsExceeded"
    check_alive(bus)


@pytest.mark.parametrize("depth", [1, 60])
def test_deep_variant(bus: Bus, client: RawClient, depth: int) -> None:
    serial = client.send(HERE._replace(member="Echo", signature="v"), b"\1v\0" * depth + b"\1y\0\5")
    value: Any = client.reply(serial).values[0]
    for _ in range(depth):
        value = value.value
    assert value.value == 5
    check_alive(bus)


def test_unknown_flags(client: RawClient) -> None:
    assert client.reply(client.send(GET_HEADERS, BODY, flags=0xF0)) == Reply("", [TREE])


def test_stray_replies(bus: Bus, client: RawClient) -> None:
    owner = client.ask_bus("GetNameOwner", "s", ["org.kheaders.Provide"]).values[0]
    for serial in range(1, 50):
        client.socket.sendall(wire.method_return(serial + 1000, serial, owner, "s", BODY))
        client.socket.sendall(wire.error(serial + 2000, serial, owner, "a.b", "spoof"))
    check_alive(bus)


def test_spoofed_vanishing(bus: Bus, client: RawClient) -> None:
    """Any program can send signals to one connection alone: only the bus is believed."""
    other = RawClient(bus.socket)
    serial = other.send(SLOW, slow_for(500))
    name = other.name.encode()
    argument = struct.pack("<I", len(name)) + name + b"\0"
    body = argument + bytes(-len(argument) & 3) + argument
    body += bytes(-len(body) & 3) + bytes(5)
    fields = wire.Fields(
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="NameOwnerChanged",
        destination="org.kheaders.Provide",
        signature="sss",
    )
    client.socket.sendall(wire.signal(1000, fields, body))
    assert other.reply(serial).name == ""
    assert counters(client)[2] == 0
    other.close()


def test_unsolicited_descriptors(bus: Bus, client: RawClient, service: Service) -> None:
    before = service.descriptors()
    reader, writer = os.pipe()
    for member in ("Nope", "GetHeaders", "Slow"):
        fields = HERE._replace(member=member, signature="h", unix_fds=1)
        for _ in range(100):
            serial = client.send(fields, bytes(4), descriptors=[writer])
            expected = "UnknownMethod" if member == "Nope" else "InvalidArgs"
            assert client.reply(serial).name == "org.freedesktop.DBus.Error." + expected
    fields = GET_HEADERS._replace(unix_fds=3)
    serial = client.send(fields, BODY, descriptors=[writer] * 3)
    assert client.reply(serial) == Reply("", [TREE])
    large = struct.pack("<I", 32 << 10) + bytes(32 << 10)
    serial = client.send(fields._replace(signature="ay"), large, descriptors=[writer] * 3)
    assert client.reply(serial).name == "org.freedesktop.DBus.Error.LimitsExceeded"
    os.close(writer)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b""  # every copy is closed
    os.close(reader)
    assert service.descriptors() <= before
    check_alive(bus)


def test_callers_that_vanish(bus: Bus, client: RawClient, service: Service) -> None:
    before = service.descriptors()
    callers = [RawClient(bus.socket) for _ in range(20)]
    for caller in callers:
        for _ in range(20):
            caller.send(SLOW, slow_for(60_000))
    deadline = time.monotonic() + 5
    while counters(client)[1] < 400 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert counters(client)[1] == 400
    for caller in callers:
        caller.close()
    while counters(client)[1] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert counters(client)[1:3] == (0, 400)
    assert service.descriptors() <= before


def test_bus_that_dies_ends_everything(bus: Bus, client: RawClient, service: Service) -> None:
    for _ in range(10):
        client.send(SLOW, slow_for(60_000))
    check_alive(bus)
    bus.kill()
    words = service.end()
    assert words.startswith("closed '")
    assert words.endswith(" 0 tasks\n")
    assert words != "closed '' 0 tasks\n"


def test_end_answers_calls_in_flight(client: RawClient, service: Service) -> None:
    serial = client.send(SLOW, slow_for(60_000))
    assert client.call("GetHeaders", "s", ["x"]).name == ""
    assert service.end() == "closed '' 0 tasks\n"
    assert client.reply(serial).name == "org.freedesktop.DBus.Error.NoReply"


@needs_root("other users can only be tried out by root")
def test_one_user_cannot_take_all_calls(bus: Bus, client: RawClient) -> None:
    """Calls of a method that does not ask who calls, on as many connections as that takes."""
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(connected(bus.socket, "nobody")) for _ in range(72)]
        for caller in callers:
            for _ in range(128):
                caller.send(SLOW, slow_for(60_000))
        deadline = time.monotonic() + 20
        while counters(client)[1] < PER_USER:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.reply(client.send(SLOW, slow_for(1))).name == ""
        other = stack.enter_context(connected(bus.socket, "daemon"))
        assert other.reply(other.send(SLOW, slow_for(1))).name == ""
        assert counters(client)[1] == PER_USER
