"""What other programs may do to the daemon: it stays up, answers others, and is afterwards as before.

One daemon goes through all of it, on a bus with the limits of a distribution: a connection may wait for 128
answers, and refuses further calls by itself; calls that want no answer are not limited.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import Variant, encode
from tests.support.archives import make_kheaders
from tests.support.callers import (
    HEADERS,
    MEBIBYTE,
    NO_OPTIONS,
    Flood,
    Watch,
    acquire,
    client,
    connect,
    error,
    frames,
    headers_of,
    unharmed,
)
from tests.support.directories import for_all_users
from tests.support.needs import needs_root
from tests.support.raw import HERE, INTERFACE, PATH, RawClient
from tests.support.running import Bus, Daemon
from tests.support.served_host import RELEASE, ServedHost

pytestmark = [
    pytest.mark.slow,
    needs_root("other users can only be tried out by root"),
]

INVALID = error("InvalidArgs")
LIMITS = error("LimitsExceeded")
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
LOOKUP = HERE._replace(member="Lookup", signature="s")
MANY = 100_000
FEWER = 10_000


@pytest.fixture(scope="module")
def rig() -> Iterator[Daemon]:
    """A daemon that has the headers of the running kernel."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with for_all_users("kh-hostile-", base) as directory:
        for name in ("bus", "root"):
            (directory / name).mkdir()
        host = ServedHost(directory / "root")
        host.show(make_kheaders(RELEASE))
        bus = Bus(directory / "bus")
        bus.start()
        daemon = Daemon(bus, host.root, directory / "cache", directory / "log")
        daemon.start()
        with client(bus.socket) as caller:
            assert caller.call("GetHeaders", HEADERS, ["", NO_OPTIONS]).name == ""
            _warm_up(caller)
        yield daemon
        assert daemon.stop() == 0
        bus.stop()
        traceback = daemon.traceback()
        assert traceback == ""


def _warm_up(caller: RawClient) -> None:
    """Have everything imported and every path taken, so that what is measured is growth."""
    for _ in range(20):
        for member in ("GetHeaders", "Verify", "Nonsense"):
            caller.call(member, HEADERS, ["", NO_OPTIONS])
        caller.call("GetHeaders", HEADERS, ["9.9.9-none", NO_OPTIONS])
        caller.call("Describe")
        caller.call("Introspect", interface=INTROSPECTABLE)
        os.close(acquire(caller))


@pytest.fixture
def other(rig: Daemon) -> Iterator[RawClient]:
    """The one who has manners."""
    with client(rig.bus.socket) as connected:
        yield connected


@pytest.fixture(params=["root", "nobody"])
def bad(rig: Daemon, request: pytest.FixtureRequest) -> Iterator[RawClient]:
    """The one who has none."""
    with client(rig.bus.socket, request.param) as connected:
        yield connected


@pytest.fixture
def nobody(rig: Daemon) -> Iterator[RawClient]:
    with client(rig.bus.socket, "nobody") as connected:
        yield connected


# Nonsense

RELEASES = [
    "../../etc", "a/b", "/", "..", ".", "6.1\n0", "6.1\t", "x" * 65, "x" * 10_000, "шесть" * 7, "6.1\x7f",
    "6.1\u0085", "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("release", RELEASES, ids=lambda text: ascii(text)[:12])
def test_what_is_no_release(rig: Daemon, nobody: RawClient, release: str) -> None:
    before = rig.entries()
    for member in ("GetHeaders", "Acquire", "Remove", "Verify"):
        refused = nobody.call(member, HEADERS, [release, NO_OPTIONS])
        assert refused.name == INVALID
        assert "release" in refused.values[0]
        assert len(refused.values[0]) < 300
    assert nobody.call("Lookup", "s", [release]).name == INVALID
    assert rig.entries() == before
    assert rig.leftovers() == []


def test_a_release_with_a_nul(rig: Daemon, other: RawClient) -> None:
    """No library sends one, and the bus ends the connection of a program that does."""
    bad = connect(rig.bus.socket, "nobody")
    text = b"6.1\0-evil"
    with unharmed(rig, other):
        bad.send(LOOKUP, struct.pack("<I", len(text)) + text + b"\0")
        with pytest.raises((EOFError, ConnectionError)):
            bad.reply(bad.serial)
    bad.close()


@pytest.mark.parametrize("signature", ["", "s", "sa{ss}", "sa{sv}s", "a{sv}s", "v", "(sa{sv})", "h", "ay"])
def test_wrong_signatures(rig: Daemon, nobody: RawClient, signature: str) -> None:
    values: dict[str, Any] = {
        "s": ["x"], "sa{ss}": ["", {"a": "b"}], "sa{sv}s": ["", {}, ""], "a{sv}s": [{}, ""],
        "v": [Variant("s", "")], "(sa{sv})": [["", {}]], "h": [0], "ay": [b"\0\1"],
    }  # fmt: skip
    for member in ("GetHeaders", "Acquire", "Remove", "Verify", "Prune", "UnloadModule"):
        assert nobody.call(member, signature, values.get(signature, [])).name == INVALID
    if signature != "s":
        assert nobody.call("Lookup", signature, values.get(signature, [])).name == INVALID
    if signature:
        assert nobody.call("Describe", signature, values[signature]).name == INVALID


@pytest.mark.parametrize(
    "options",
    [
        {"": Variant("b", True)},
        {"unknown": Variant("b", True)},
        {"x" * 10_000: Variant("b", True)},
        {"refresh": Variant("s", "true")},
        {"refresh": Variant("v", Variant("b", True))},
        {"sources": Variant("s", "tree")},
        {"sources": Variant("as", [])},
        {"sources": Variant("as", ["tree", "tree"])},
        {"sources": Variant("as", ["/etc/passwd"])},
        {"sources": Variant("as", ["tree"] * 1000)},
        {"sources": Variant("as", ["x" * 10_000])},
        {str(number): Variant("b", True) for number in range(500)},
    ],
    ids=lambda options: f"{len(options)}-{next(iter(options))[:8]}-{next(iter(options.values())).signature}",
)
def test_options_that_are_none(rig: Daemon, nobody: RawClient, options: dict[str, Variant]) -> None:
    for member in ("GetHeaders", "Acquire"):
        refused = nobody.call(member, HEADERS, ["", options])
        assert refused.name == INVALID
        assert len(refused.values[0]) < 500


@pytest.mark.parametrize(
    "reason", ["x" * 257, "new\nline", "\x1b[2J", "\u202eevil"], ids=["long", "line", "escape", "turned"]
)
def test_reasons_that_are_none(rig: Daemon, nobody: RawClient, reason: str) -> None:
    assert nobody.call("Acquire", HEADERS, ["", {"reason": Variant("s", reason)}]).name == INVALID


@pytest.mark.parametrize("member", ["GetHeaders", "Acquire", "Lookup", "Describe", "Nonsense", "Introspect"])
def test_unsolicited_descriptors(rig: Daemon, other: RawClient, bad: RawClient, member: str) -> None:
    reader, writer = os.pipe()
    fields = HERE._replace(member=member, signature="ah", unix_fds=3)
    if member == "Introspect":
        fields = fields._replace(interface=INTROSPECTABLE)
    body = encode("ah", [[0, 1, 2]])
    with unharmed(rig, other):
        for _ in range(100):
            serial = bad.send(fields, body, descriptors=[writer] * 3)
            assert bad.reply(serial).name in (INVALID, error("UnknownMethod"), error("AccessDenied"))
        bad.send(fields, body, descriptors=[writer] * 3, flags=wire.NO_REPLY_EXPECTED)
        bad.call("ListLeases")
        os.close(writer)
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b"", "a copy is still open"
        os.close(reader)


# Too much


def large(signature: str, mebibytes: int) -> bytes:
    """A body of about so many MiB that is valid."""
    size = mebibytes * MEBIBYTE
    match signature:
        case "s":
            return struct.pack("<I", size) + b"a" * size + b"\0"
        case "ay":
            return struct.pack("<I", size) + bytes(size)
        case "av":
            return struct.pack("<I", size) + b"\1y\0\0" * (size // 4)
        case "sa{sv}":
            # "" and an empty array's place, then pairs of a key and a variant of one byte, 16 bytes each.
            pair = struct.pack("<I", 4) + b"abcd\0" + b"\1y\0\5" + bytes(3)
            pairs = (pair * (size // len(pair)))[:-3]  # no padding after the last
            return struct.pack("<I", 0) + b"\0" + bytes(3) + struct.pack("<I", len(pairs)) + bytes(4) + pairs
    raise AssertionError(signature)


@pytest.mark.parametrize("mebibytes", [1, 24])
@pytest.mark.parametrize("signature", ["s", "ay", "av", "sa{sv}"])
def test_messages_of_many_megabytes(
    rig: Daemon, other: RawClient, nobody: RawClient, signature: str, mebibytes: int
) -> None:
    fields = HERE._replace(member="GetHeaders", signature=signature)
    body = large(signature, mebibytes)
    with unharmed(rig, other) as watch, Flood(nobody, frames(fields, [body] * 3)) as flood:
        watch.keep_asking(lambda: not flood.answered(3))
        assert (flood.returns, flood.errors) == (0, 3)


@pytest.mark.parametrize("depth", [10, 63, 64, 200, 2000])
def test_deep_variants(rig: Daemon, other: RawClient, depth: int) -> None:
    """The bus refuses more than 64 levels; what it lets through must not harm."""
    options = (
        struct.pack("<I", 0) + b"\0" + bytes(3)
        + struct.pack("<I", 13 + 3 * depth + 4) + bytes(4)
        + struct.pack("<I", 7) + b"sources\0" + b"\1v\0" * depth + b"\1y\0\5"
    )  # fmt: skip
    options = options[:8] + struct.pack("<I", len(options) - 16) + options[12:]
    fields = HERE._replace(member="GetHeaders", signature=HEADERS)
    with unharmed(rig, other) as watch, client(rig.bus.socket, "nobody") as bad:
        with contextlib.suppress(EOFError, ConnectionError):
            assert bad.reply(bad.send(fields, options)).name == INVALID
        watch.answers()


def test_thousands_of_signatures(rig: Daemon, other: RawClient, nobody: RawClient) -> None:
    """A parser that remembers every signature it saw would grow for ever."""
    kinds = "ybnqiuxtds"
    signatures = ["".join(each) for each in itertools.product(kinds, repeat=4)]
    bodies = []
    for signature in signatures[:FEWER]:
        variant = struct.pack("B", len(signature) + 3) + f"a({signature})".encode() + b"\0"
        head = struct.pack("<I", 0) + b"\0" + bytes(3) + struct.pack("<I", 0) + bytes(4)
        entry = struct.pack("<I", 7) + b"sources\0" + variant
        entry += bytes(-len(head + entry) & 3) + struct.pack("<I", 0)
        entry += bytes(-len(head + entry) & 7)
        bodies.append(head[:8] + struct.pack("<I", len(entry)) + head[12:] + entry)
    fields = HERE._replace(member="GetHeaders", signature=HEADERS)
    with unharmed(rig, other) as watch, Flood(nobody, frames(fields, bodies)) as flood:
        watch.keep_asking(lambda: not flood.answered(len(bodies)))
        assert flood.returns == 0


def test_unknown_header_fields(rig: Daemon, other: RawClient) -> None:
    """dbus-daemon lets them through since 1.15, dbus-broker always did."""
    with unharmed(rig, other), client(rig.bus.socket, "nobody") as bad:
        for kind, value in (("s", struct.pack("<I", 1) + b"x\0"), ("v", b"\1y\0\5"), ("u", bytes(4))):
            frame = bytearray(wire.method_call(50, LOOKUP, encode("s", [""])))
            size = wire.measure(frame)
            extra = struct.pack("BBBB", 77, 1, ord(kind), 0) + value
            fields = bytes(frame[16 : 16 + size.fields])
            fields += bytes(-len(fields) & 7) + extra
            frame[12:16] = struct.pack("<I", len(fields))
            frame[16 : size.header] = fields + bytes(-len(fields) & 7)
            with contextlib.suppress(EOFError, ConnectionError):
                bad.socket.sendall(frame)
                assert bad.reply(50).name == ""


# Floods


def releases(count: int) -> Iterable[str]:
    return (f"9.{number}.0-none" for number in range(count))


def flood_of(what: str) -> tuple[wire.Fields, Iterable[bytes], int]:
    """Fields, bodies and number of calls."""
    match what:
        case "cheap":
            return LOOKUP, itertools.repeat(encode("s", [""]), MANY), MANY
        case "unknown releases":
            return *headers_of("GetHeaders", releases(FEWER)), FEWER
        case "one unknown release":
            return *headers_of("GetHeaders", ["9.9.9-none"] * MANY), MANY
        case "failing":
            return LOOKUP, itertools.repeat(encode("s", ["../.."]), MANY), MANY
        case "failing differently":
            fields, bodies = headers_of("Verify", releases(FEWER))
            return fields, bodies, FEWER
        case "Verify":
            return *headers_of("Verify", [""] * FEWER), FEWER
        case "no such method":
            return HERE._replace(member="Nonsense"), itertools.repeat(b"", MANY), MANY
        case "Describe" | "ListEntries":
            return HERE._replace(member=what), itertools.repeat(b"", FEWER), FEWER
        case "Introspect":
            fields = HERE._replace(member=what, interface=INTROSPECTABLE)
            return fields, itertools.repeat(b"", FEWER), FEWER
        case "GetAll":
            fields = HERE._replace(member=what, interface=PROPERTIES, signature="s")
            return fields, itertools.repeat(encode("s", [INTERFACE]), FEWER), FEWER
    raise AssertionError(what)


FLOODS = [
    "cheap", "unknown releases", "one unknown release", "failing", "failing differently", "Verify",
    "no such method", "Describe", "ListEntries", "Introspect", "GetAll",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", FLOODS)
def test_flood(rig: Daemon, other: RawClient, nobody: RawClient, what: str) -> None:
    fields, bodies, count = flood_of(what)
    if what == "no such method":  # which the bus refuses to all users but root
        nobody = other
    with client(rig.bus.socket) as asking, unharmed(rig, asking) as watch:
        with Flood(nobody, frames(fields, bodies)) as flood:
            watch.keep_asking(lambda: not flood.answered(count))
        assert flood.returns + flood.errors == count, "a call gets exactly one reply"
        _everything_works(rig, asking)


@pytest.mark.slow
@pytest.mark.parametrize("what", FLOODS)
def test_flood_without_replies(rig: Daemon, other: RawClient, nobody: RawClient, what: str) -> None:
    fields, bodies, count = flood_of(what)
    bodies = itertools.islice(bodies, min(count, 2 * FEWER))
    if what == "no such method":
        nobody = other
    with client(rig.bus.socket) as asking, unharmed(rig, asking) as watch:
        with Flood(nobody, frames(fields, bodies, no_reply=True)) as flood:
            watch.keep_asking(lambda: flood.sending)
            watch.answers()
        assert flood.returns + flood.errors == 0
        _everything_works(rig, asking)


def _everything_works(rig: Daemon, caller: RawClient) -> None:
    path, _ = caller.call("GetHeaders", HEADERS, ["", NO_OPTIONS]).values
    assert Path(path).is_dir()
    assert caller.call("Verify", HEADERS, ["", NO_OPTIONS]).values == [True, []]
    assert rig.leftovers() == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["cheap", "Describe", "Introspect"])
def test_answers_that_nobody_reads(rig: Daemon, other: RawClient, nobody: RawClient, what: str) -> None:
    """They pile up in the bus, then in the daemon, which stops reading until they have left."""
    fields, bodies, _ = flood_of(what)
    with unharmed(rig, other) as watch:
        with Flood(nobody, frames(fields, bodies), reads=False) as flood:
            deadline = time.monotonic() + 3
            watch.keep_asking(lambda: flood.sending and time.monotonic() < deadline)
        nobody.close()
        watch.answers()


@pytest.mark.slow
def test_callers_that_vanish(rig: Daemon, other: RawClient) -> None:
    """With calls in flight of every kind, some of them answered with descriptors."""
    with unharmed(rig, other) as watch:
        for round_ in range(10):
            bad = [connect(rig.bus.socket, user) for user in ("nobody", "root") for _ in range(5)]
            for caller in bad:
                for number in range(10):
                    for member in ("GetHeaders", "Acquire", "Verify"):
                        release = f"8.{round_}.{number}" if number % 2 else ""
                        caller.send(*_one(member, release))
            watch.answers()
            for caller in bad:
                caller.close()
        watch.answers()
        _no_lease_is_left(other)


def _one(member: str, release: str) -> tuple[wire.Fields, bytes]:
    fields, (body,) = headers_of(member, [release])
    return fields, body


def _no_lease_is_left(caller: RawClient) -> None:
    deadline = time.monotonic() + 10
    while caller.call("ListLeases").values[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert caller.call("ListLeases").values == [[]]


@pytest.mark.slow
def test_connection_storm(rig: Daemon, other: RawClient) -> None:
    with unharmed(rig, other) as watch:
        for _ in range(2):
            storm: list[RawClient] = []
            for _ in range(200):
                storm.append(connect(rig.bus.socket, "nobody"))
                storm[-1].send(*_one("GetHeaders", ""))
                storm[-1].send(*_one("Verify", ""))
            watch.answers()
            for caller in storm:
                assert {caller.next_reply().error_name for _ in range(2)} == {""}
            for caller in storm:
                caller.close()


@pytest.mark.slow
def test_connections_that_come_and_go(rig: Daemon, other: RawClient) -> None:
    """The daemon forgets each caller that it got to know."""
    with unharmed(rig, other) as watch:
        for number in range(1000):
            with client(rig.bus.socket, "nobody") as bad:
                bad.send(*_one("GetHeaders", f"7.{number}"))
                if number % 3 == 0:
                    bad.reply(bad.serial)
            if number % 50 == 0:
                watch.answers()


def test_lease_storm(rig: Daemon, other: RawClient, nobody: RawClient) -> None:
    """A user gets 32, others still get theirs, and all end with their holders."""
    with unharmed(rig, other) as watch:
        leases = [acquire(nobody) for _ in range(32)]
        refused = nobody.call("Acquire", HEADERS, ["", NO_OPTIONS])
        assert refused.name == LIMITS
        assert "32" in refused.values[0]
        watch.answers()
        assert other.call("Describe").name == ""
        os.close(acquire(other))
        assert other.call("Remove", HEADERS, ["", NO_OPTIONS]).name == "org.kheaders.Provide.Error.InUse"
        for lease in leases:
            os.close(lease)
        _no_lease_is_left(other)


def test_leases_that_are_asked_for_and_dropped(rig: Daemon, other: RawClient, bad: RawClient) -> None:
    count = FEWER // 4
    fields, bodies = headers_of("Acquire", [""] * count)
    with unharmed(rig, other) as watch:
        # Reading without asking for descriptors closes them.
        with Flood(bad, frames(fields, bodies)) as flood:
            watch.keep_asking(lambda: not flood.answered(count))
        assert flood.returns + flood.errors == count
        with Flood(bad, frames(fields, bodies, no_reply=True, first=90_000)) as flood:
            watch.keep_asking(lambda: flood.sending)
        bad.call("ListLeases")
        _no_lease_is_left(other)


def test_leases_that_nobody_picks_up(rig: Daemon, other: RawClient) -> None:
    """They hang in the bus until their caller goes."""
    bad = connect(rig.bus.socket, "nobody")
    fields, bodies = headers_of("Acquire", [""] * 3000)
    with unharmed(rig, other) as watch:
        with Flood(bad, frames(fields, bodies), reads=False) as flood:
            watch.keep_asking(lambda: flood.sending)
        watch.answers()
        bad.close()
        _no_lease_is_left(other)


@pytest.mark.slow
def test_all_at_once(rig: Daemon, other: RawClient) -> None:
    """Floods by several callers, of everything there is, while headers are made again and again."""
    callers = [connect(rig.bus.socket, "nobody") for _ in FLOODS]
    with unharmed(rig, other) as watch, client(rig.bus.socket) as root, contextlib.ExitStack() as stack:
        floods = []
        for caller, what in zip(callers, FLOODS, strict=True):
            stack.callback(caller.close)
            fields, bodies, _ = flood_of(what)
            floods.append(stack.enter_context(Flood(caller, frames(fields, itertools.islice(bodies, 5000)))))
        for _ in range(5):
            _remake(root, watch)
        watch.keep_asking(lambda: not all(flood.answered(5000) for flood in floods))
        _everything_works(rig, root)


def _remake(root: RawClient, watch: Watch) -> None:
    reply = root.call("GetHeaders", HEADERS, ["", {"refresh": Variant("b", True)}])
    assert reply.name == ""
    watch.answers()


def test_paths_that_lead_nowhere(rig: Daemon, other: RawClient) -> None:
    with unharmed(rig, other):
        for path in ("/", "/org", PATH + "/x", "/x" * 5000):
            refused = other.reply(other.send(LOOKUP._replace(path=path), encode("s", [""])))
            assert refused.name in (error("UnknownObject"), error("UnknownInterface"))
