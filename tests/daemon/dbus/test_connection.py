"""The client's side of a connection, and its ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import decode, encode
from kheadersd.dbus.connection import Connection, Signal
from kheadersd.dbus.errors import BusError, ConnectionLost, NameTaken
from kheadersd.dbus.objects import Call, Interface, Method, Reply
from kheadersd.errors import AccessDenied, LimitsExceeded, Timeout

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.dbus_rig import Bus

NAME, PATH, INTERFACE = "org.example.Test", "/org/example", "org.example.Test"
BUS = "org.freedesktop.DBus"


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    descriptors = len(os.listdir("/proc/self/fd"))
    yield
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(os.listdir("/proc/self/fd")) <= descriptors


@contextlib.asynccontextmanager
async def connected(address: str, **options: Any) -> AsyncIterator[Connection]:
    connection = await Connection.open(address, **options)
    try:
        yield connection
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def server(
    path: Path, talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[str]:
    """A socket on which something else than a well-behaved bus listens."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    listener = await asyncio.start_unix_server(serve, path)
    try:
        yield f"unix:path={path}"
    finally:
        listener.close()
        await asyncio.sleep(0.05)


async def authenticate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n")
    writer.write(b"OK 1234\r\n")
    await reader.readuntil(b"NEGOTIATE_UNIX_FD\r\n")
    writer.write(b"AGREE_UNIX_FD\r\n")
    await reader.readuntil(b"BEGIN\r\n")


async def read_frame(reader: asyncio.StreamReader) -> tuple[wire.Fields, wire.Size, bytes]:
    prefix = await reader.readexactly(16)
    size = wire.measure(prefix)
    rest = await reader.readexactly(size.header + size.body - 16)
    return wire.parse_fields(rest[: size.fields]), size, rest[size.header - 16 :]


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await authenticate(reader, writer)
    _, size, _ = await read_frame(reader)
    text = struct.pack("<I", 4) + b":1.1\0"
    writer.write(wire.method_return(1, size.serial, ":1.1", "s", text))


async def test_calls_and_names(bus: Bus) -> None:
    async with connected(bus.address) as first, connected(bus.address) as second:
        assert first.unique_name.startswith(":")
        await first.request_name(NAME)
        await first.request_name(NAME)
        with pytest.raises(NameTaken, match="is the service running already"):
            await second.request_name(NAME)
        (owner,), _ = await second.call(BUS, "/org/freedesktop/DBus", BUS, "GetNameOwner", "s", [NAME])
        assert owner == first.unique_name
        with pytest.raises(BusError) as caught:
            await second.call(NAME, "/nowhere", INTERFACE, "Nothing")
        assert caught.value.name == "org.freedesktop.DBus.Error.UnknownObject"
        with pytest.raises(BusError) as caught:
            await second.call("org.example.Nobody", "/", INTERFACE, "Nothing")
        assert caught.value.name == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_service_and_client_in_one_program(bus: Bus) -> None:
    async with connected(bus.address) as service, connected(bus.address) as client:

        async def nap(_call: Any) -> None:
            await asyncio.sleep(30)

        methods = {"Echo": Method("s", "s", lambda call: call.args), "Nap": Method("", "", nap)}
        service.export(PATH, [Interface(INTERFACE, methods, {}, f'<interface name="{INTERFACE}"/>')])
        await service.request_name(NAME)
        assert await client.call(NAME, PATH, INTERFACE, "Echo", "s", ["hi"]) == (["hi"], ())
        with pytest.raises(Timeout, match=r"did not answer Nap within 0\.1 seconds"):
            await client.call(NAME, PATH, INTERFACE, "Nap", timeout=0.1)
        with pytest.raises(ValueError, match="not values of"):
            await client.call(NAME, PATH, INTERFACE, "Echo", "s", [5])
        with pytest.raises(BusError, match="larger than any") as caught:
            await client.call(NAME, PATH, INTERFACE, "Echo", "s", ["x" * 20000])
        assert caught.value.name == LimitsExceeded.bus_name


async def test_caller_that_vanishes_does_not_end_what_others_wait_for(bus: Bus) -> None:
    async with connected(bus.address) as service, connected(bus.address) as patient:
        shared: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        service.export("/", [Interface("a.b", {"Wait": Method("", "s", lambda _call: shared)}, {}, "")])
        await service.request_name(NAME)
        waiting = asyncio.create_task(patient.call(NAME, "/", "a.b", "Wait"))
        async with connected(bus.address) as hasty:
            with pytest.raises(Timeout):
                await hasty.call(NAME, "/", "a.b", "Wait", timeout=0.1)
            assert len(service._dispatcher.in_flight) == 2
        for _ in range(100):
            if len(service._dispatcher.in_flight) > 1:
                await asyncio.sleep(0.02)
        assert len(service._dispatcher.in_flight) == 1
        shared.set_result(["done"])
        assert (await waiting).values == ["done"]


async def test_close_at_once_answers_what_has_just_come(bus: Bus) -> None:
    """A task that is cancelled before its first step answers, too."""
    async with connected(bus.address) as client:
        service = await Connection.open(bus.address)
        closing: list[asyncio.Task[None]] = []

        def close(_call: Call) -> Awaitable[None]:
            closing.append(asyncio.create_task(service.close()))
            return asyncio.sleep(60)

        service.export("/", [Interface("a.b", {"Close": Method("", "", close)}, {}, "")])
        with pytest.raises(BusError) as caught:
            await client.call(service.unique_name, "/", "a.b", "Close")
        assert caught.value.name == "org.freedesktop.DBus.Error.NoReply"
        assert "was cancelled" in caught.value.message
        await closing[0]


async def test_signals(bus: Bus) -> None:
    async with connected(bus.address) as sender, connected(bus.address) as receiver:
        got: list[Signal] = []
        heard = asyncio.Event()

        def hear(signal: Signal) -> None:
            got.append(signal)
            heard.set()

        await receiver.add_match(f"type='signal',interface='{INTERFACE}'")
        unsubscribe = receiver.on_signal(hear, interface=INTERFACE)
        sender.emit(PATH, INTERFACE, "Changed", "su", ["a", 1])
        await asyncio.wait_for(heard.wait(), 5)
        assert got == [Signal(sender.unique_name, PATH, INTERFACE, "Changed", ["a", 1])]
        unsubscribe()
        unsubscribe()
        for _ in range(5000):
            sender.emit(PATH, INTERFACE, "Changed", "su", ["a", 1])
        await receiver.call(sender.unique_name, "/", "org.freedesktop.DBus.Peer", "Ping")
        assert len(got) == 1


async def test_credentials_are_remembered_until_the_caller_goes(bus: Bus) -> None:
    async with connected(bus.address) as connection:
        async with connected(bus.address) as other:
            name = other.unique_name
            lookups = await asyncio.gather(*(connection.credentials(name) for _ in range(5)))
            assert set(lookups) == {(os.getuid(), os.getpid())}
            assert len(connection._callers.known) == 1
        for _ in range(100):
            if connection._callers.known:
                await asyncio.sleep(0.02)
        with pytest.raises(AccessDenied, match=f"has no credentials of {name}"):
            await connection.credentials(name)
        await asyncio.sleep(0)
        assert not connection._callers.known


async def test_descriptors_only_where_they_are_wanted(bus: Bus) -> None:
    def pipe(_call: Any) -> Reply:
        reader, writer = os.pipe()
        os.close(writer)
        return Reply(encode("h", [0]), (reader,))

    async with connected(bus.address) as service, connected(bus.address) as client:
        service.export("/", [Interface(INTERFACE, {"Pipe": Method("", "h", pipe)}, {}, "")])
        to = service.unique_name
        answer = await client.call(to, "/", INTERFACE, "Pipe", accept_fds=True)
        assert os.read(answer.fds[answer.values[0]], 1) == b""
        assert not os.get_inheritable(answer.fds[0])
        os.close(answer.fds[0])
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            assert (await client.call(to, "/", INTERFACE, "Pipe")).fds == ()
        assert len(os.listdir("/proc/self/fd")) == before


async def test_large_answer(bus: Bus) -> None:
    async with connected(bus.address) as service:
        large = Method("u", "s", lambda call: ["x" * call.args[0]])
        service.export("/", [Interface(INTERFACE, {"Large": large}, {}, "")])
        async with connected(bus.address) as client:
            with pytest.raises(LimitsExceeded, match="larger than this connection reads"):
                await client.call(service.unique_name, "/", INTERFACE, "Large", "u", [20000])
        async with connected(bus.address, max_message=16 << 20) as client:
            (text,), _ = await client.call(service.unique_name, "/", INTERFACE, "Large", "u", [8 << 20])
            assert len(text) == 8 << 20
            with pytest.raises(BusError, match="larger than the bus would carry"):
                await client.call(service.unique_name, "/", INTERFACE, "Large", "u", [40 << 20])


async def test_bus_that_dies(bus: Bus) -> None:
    connection = await Connection.open(bus.address)
    call = asyncio.create_task(connection.call(connection.unique_name, "/", "", "Sleep"))
    connection.export(
        "/", [Interface("", {"Sleep": Method("", "", lambda _call: asyncio.sleep(60))}, {}, "")]
    )
    credentials = asyncio.create_task(connection.credentials(connection.unique_name))
    await credentials
    bus.kill()
    reason = await asyncio.wait_for(connection.closed, 5)
    assert reason
    with pytest.raises(ConnectionLost, match="connection to the bus is gone"):
        await asyncio.wait_for(call, 5)
    with pytest.raises(ConnectionLost):
        await connection.call(BUS, "/", BUS, "Anything")
    with pytest.raises(ConnectionLost):
        await connection.credentials(":1.99")
    connection.emit("/", INTERFACE, "Nobody")
    await connection.close()
    await connection.close()


async def test_closing_fails_pending_calls(bus: Bus) -> None:
    async with connected(bus.address) as other:
        other.export(
            "/", [Interface("a.b", {"Sleep": Method("", "", lambda _call: asyncio.sleep(60))}, {}, "")]
        )
        connection = await Connection.open(bus.address)
        call = asyncio.create_task(connection.call(other.unique_name, "/", "a.b", "Sleep"))
        await asyncio.sleep(0.05)
        await connection.close()
        with pytest.raises(ConnectionLost, match="it was closed"):
            await call
        assert await connection.closed == ""


async def test_no_bus(tmp_path: Path) -> None:
    for address in (f"unix:path={tmp_path}/none", "tcp:host=localhost,port=1", "nonsense"):
        with pytest.raises(ConnectionLost, match="cannot connect to the bus"):
            await Connection.open(address)


async def test_second_address_is_tried(bus: Bus, tmp_path: Path) -> None:
    async with connected(f"unix:path={tmp_path}/none;{bus.address}") as connection:
        assert connection.unique_name


async def test_mute_bus(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def mute_after_authentication(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await authenticate(reader, writer)
        await reader.read()

    for talk in (mute, mute_after_authentication):
        async with server(tmp_path / talk.__name__, talk) as address:
            with pytest.raises(Timeout, match=r"did not answer within 0\.2 seconds"):
                await Connection.open(address, timeout=0.2)


@pytest.mark.parametrize(
    "says", [b"", b"REJECTED EXTERNAL\r\n", b"OK 1\r\nERROR\r\n", b"\xff\xfe\r\n", b"x" * 10000, b"WHAT\r\n"]
)
async def test_end_during_authentication(tmp_path: Path, says: bytes) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(says)
        await writer.drain()

    async with server(tmp_path / "bus", refuse) as address:
        with pytest.raises(ConnectionLost, match="refused the connection"):
            await Connection.open(address, timeout=2)


async def test_end_before_hello(tmp_path: Path) -> None:
    async with server(tmp_path / "bus", authenticate) as address:
        with pytest.raises(ConnectionLost, match="connection to the bus is gone"):
            await Connection.open(address, timeout=2)


async def test_bus_that_passes_unknown_things_on(tmp_path: Path) -> None:
    """As dbus-broker does with header fields that it does not know, and with bodies."""
    answers: asyncio.Queue[tuple[wire.Fields, bytes]] = asyncio.Queue()
    exported = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await exported.wait()
        fields = wire.Fields(path="/", interface=INTERFACE, member="Echo", sender=":1.9", signature="s")
        good = struct.pack("<I", 1) + b"x\0"
        frame = wire.method_call(1, fields, good)
        size = wire.measure(frame)
        unknown = b"\x4d\5a{sv}\0" + bytes(8)
        head = frame[: 16 + size.fields] + bytes(-size.fields & 7) + unknown
        count = len(head) - 16
        head = head[:12] + struct.pack("<I", count) + head[16:]
        writer.write(head + bytes(-count & 7) + good)
        writer.write(frame[:1] + b"\5" + frame[2:])  # a message type of the future
        writer.write(wire.method_call(2, fields, b"\xff\xff"))  # a body that is no string
        writer.write(wire.method_call(3, fields, struct.pack("<I", 3) + b"a\0b\0"))
        writer.write(wire.method_call(4, fields._replace(signature="u"), bytes(4)))
        bad = wire.method_call(5, fields, good)
        writer.write(bad[:16] + b"\1\1s" + bad[19:])  # a path that is not one: not answered
        writer.write(
            wire.signal(6, fields._replace(interface=BUS, sender=BUS, member="NameOwnerChanged"), b"?")
        )
        writer.write(wire.method_return(7, 999, ":1.1"))
        writer.write(wire.method_call(8, fields, good))
        while True:
            answer, _, body = await read_frame(reader)
            answers.put_nowait((answer, body))

    async with server(tmp_path / "bus", talk) as address, connected(address) as connection:
        echo = Method("s", "s", lambda call: call.args)
        connection.export("/", [Interface(INTERFACE, {"Echo": echo}, {}, "")])
        exported.set()
        got = [await asyncio.wait_for(answers.get(), 5) for _ in range(5)]
    assert [(fields.reply_serial, fields.error_name.rpartition(".")[2]) for fields, _ in got] == [
        (1, ""),
        (2, "InvalidArgs"),
        (3, "InvalidArgs"),
        (4, "InvalidArgs"),
        (8, ""),
    ]
    assert decode("s", got[0][1]) == ["x"]


@pytest.mark.parametrize("nonsense", [b"x" * 16, b"l\1\0\1" + b"\xff" * 12])
async def test_nonsense_from_the_bus_ends_the_connection(tmp_path: Path, nonsense: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        writer.write(nonsense)
        await reader.read()

    async with server(tmp_path / "bus", talk) as address, connected(address) as connection:
        assert "what is not D-Bus" in await asyncio.wait_for(connection.closed, 5)


async def test_bus_that_does_not_read(tmp_path: Path) -> None:
    """What is written waits, reading stops meanwhile, and all of it arrives when the bus reads again."""
    exported = asyncio.Event()
    go = asyncio.Event()
    arrived: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await exported.wait()
        fields = wire.Fields(path="/", interface=INTERFACE, member="Large", sender=":1.9")
        for serial in range(1, 401):
            writer.write(wire.method_call(serial, fields))
        await go.wait()
        while len(arrived) < 400:
            answer, _, _ = await read_frame(reader)
            arrived.append(answer.reply_serial)

    async with server(tmp_path / "bus", talk) as address, connected(address) as connection:
        large = Method("", "s", lambda _call: ["x" * 100_000])
        connection.export("/", [Interface(INTERFACE, {"Large": large}, {}, "")])
        exported.set()
        await asyncio.sleep(0.3)
        assert connection._stream._paused
        assert connection._stream._queued_bytes < 2 << 20
        go.set()
        for _ in range(500):
            if len(arrived) == 400:
                break
            await asyncio.sleep(0.01)
        assert arrived == list(range(1, 401))
        assert not connection._stream._paused


async def test_bus_that_never_reads_again(tmp_path: Path) -> None:
    stop = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        await stop.wait()

    async with server(tmp_path / "bus", talk) as address:
        connection = await Connection.open(address)
        for _ in range(70):
            connection.emit("/", INTERFACE, "Large", "s", ["x" * (1 << 20)])
        assert "unread" in await asyncio.wait_for(connection.closed, 5)
        await connection.close()
        connection = await Connection.open(address)
        connection.emit("/", INTERFACE, "Large", "s", ["x" * (1 << 20)])
        await connection.close()  # does not wait for ever
        stop.set()


async def test_open_can_be_cancelled(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "bus"))
    listener.listen()
    opening = asyncio.create_task(Connection.open(f"unix:path={tmp_path}/bus"))
    await asyncio.sleep(0.05)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    listener.close()
