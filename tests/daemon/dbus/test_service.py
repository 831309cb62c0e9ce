"""The service's side of a connection: every caller gets one right answer."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import Variant, encode
from tests.support.dbus_service import TREE
from tests.support.raw import HERE, INTERFACE, NAME, PATH, RawClient, Reply, big_endian_call
from tests.support.running import REPOSITORY

if TYPE_CHECKING:
    from tests.support.dbus_rig import Bus, Service

ERRORS = "org.freedesktop.DBus.Error."
PROPERTIES = "org.freedesktop.DBus.Properties"
PEER = "org.freedesktop.DBus.Peer"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"


def test_call_is_answered(client: RawClient) -> None:
    assert client.call("GetHeaders", "s", ["x"]) == Reply("", [TREE])


def test_caller_is_known(client: RawClient) -> None:
    for _ in range(3):
        assert client.call("WhoAmI", "s", ["x"]) == Reply("", [client.name, 0])


def test_call_without_interface(client: RawClient) -> None:
    assert client.call("GetHeaders", "s", ["x"], interface="") == Reply("", [TREE])
    assert client.call("Get", "ss", [INTERFACE, "Version"], interface="").values[0].value == "1.0"
    assert client.call("Ping", interface="", path="/anywhere") == Reply("", [])


def test_interactive_flag(client: RawClient) -> None:
    assert client.call("Interactive").values == [False]
    assert client.call("Interactive", flags=wire.ALLOW_INTERACTIVE_AUTHORIZATION).values == [True]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ({"member": "Nope"}, "UnknownMethod"),
        ({"member": "Nope", "interface": ""}, "UnknownMethod"),
        ({"member": "Nope", "interface": PEER}, "UnknownMethod"),
        ({"member": "GetHeaders", "interface": "a.b", "signature": "s", "values": ["x"]}, "UnknownInterface"),
        ({"member": "GetHeaders", "path": "/x", "signature": "s", "values": ["x"]}, "UnknownObject"),
        ({"member": "GetHeaders", "signature": "u", "values": [3]}, "InvalidArgs"),
        ({"member": "GetHeaders"}, "InvalidArgs"),
        ({"member": "Fail"}, "Failed"),
        ({"member": "FailLater"}, "Failed"),
        ({"member": "BadType"}, "Failed"),
        ({"member": "CancelMe"}, "NoReply"),
        ({"member": "Introspect", "interface": INTROSPECTABLE, "path": "/nope/x"}, "UnknownObject"),
        (
            {"member": "GetAll", "interface": PROPERTIES, "signature": "s", "values": ["a.b"]},
            "UnknownInterface",
        ),
        (
            {"member": "Get", "interface": PROPERTIES, "signature": "ss", "values": [INTERFACE, "Nope"]},
            "UnknownProperty",
        ),
        (
            {"member": "Get", "interface": PROPERTIES, "signature": "ss", "values": [PEER, "x"]},
            "UnknownProperty",
        ),
        (
            {
                "member": "Set",
                "interface": PROPERTIES,
                "signature": "ssv",
                "values": [INTERFACE, "Version", Variant("s", "2")],
            },
            "PropertyReadOnly",
        ),
        (
            {
                "member": "Set",
                "interface": PROPERTIES,
                "signature": "ssv",
                "values": [INTERFACE, "Level", Variant("u", 2)],
            },
            "InvalidArgs",
        ),
    ],
)
def test_error(client: RawClient, service: Service, call: dict[str, Any], error: str) -> None:
    reply = client.call(**call)
    assert reply.name == ERRORS + error
    assert "secret" not in reply.values[0]
    assert "Traceback" not in reply.values[0]
    assert service.log.read_text().count("failed unexpectedly") == (error == "Failed")


def test_own_error_is_passed_on_as_text_that_can_travel(client: RawClient, service: Service) -> None:
    assert client.call("Refuse") == Reply(
        "org.kheaders.Provide.Error.NotCached", ["nothing is cached for 6.1\\x00\\x80"]
    )
    assert client.call("RefuseLater").name == "org.kheaders.Provide.Error.NotCached"
    assert service.log.read_text() == ""


def test_properties(client: RawClient) -> None:
    assert client.call("Get", "ss", ["", "Version"], interface=PROPERTIES).values == [Variant("s", "1.0")]
    for name in (INTERFACE, ""):
        (values,) = client.call("GetAll", "s", [name], interface=PROPERTIES).values
        assert {key: value.value for key, value in values.items()} == {
            "Version": "1.0",
            "Level": "info",
            "Waiting": 0,
        }
    assert client.call("GetAll", "s", [""], interface=PROPERTIES, path="/org").values == [{}]
    change = [INTERFACE, "Level", Variant("s", "debug")]
    assert client.call("Set", "ssv", change, interface=PROPERTIES) == Reply("", [])
    assert client.call("Get", "ss", [INTERFACE, "Level"], interface=PROPERTIES).values[0].value == "debug"


def test_properties_changed(client: RawClient) -> None:
    client.ask_bus("AddMatch", "s", ["type='signal',member='PropertiesChanged'"])
    client.send(HERE._replace(member="Touch"), flags=wire.NO_REPLY_EXPECTED)
    kind, fields, body = client.receive()
    assert (kind, fields.path, fields.interface, fields.signature) == (
        wire.SIGNAL,
        PATH,
        PROPERTIES,
        "sa{sv}as",
    )
    assert body == encode("sa{sv}as", [INTERFACE, {"Level": Variant("s", "info")}, ["Waiting"]])


def test_machine_id_each_time(client: RawClient) -> None:
    """A fresh container has none, until systemd has run there."""
    files = [Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")]
    ids = [text for text in (file.read_text().strip() for file in files if file.exists()) if text]
    expected = Reply("", ids[:1]) if ids else "org.freedesktop.DBus.Error.FileNotFound"
    for _ in range(3):
        reply = client.call("GetMachineId", interface=PEER)
        assert (reply if ids else reply.name) == expected
    assert client.call("Ping", interface=PEER) == Reply("", [])
    assert client.call("Ping", interface=PEER, path="/anywhere/at/all") == Reply("", [])


def test_introspection(client: RawClient) -> None:
    for path, children in (
        ("/", ["org"]),
        ("/org", ["kheaders"]),
        ("/org/kheaders", ["Provide"]),
        (PATH, []),
    ):
        (text,) = client.call("Introspect", interface=INTROSPECTABLE, path=path).values
        assert text.startswith("<!DOCTYPE node PUBLIC")
        node = ElementTree.fromstring(text)
        assert [child.get("name") for child in node.findall("node")] == children
        names = {str(interface.get("name")) for interface in node.findall("interface")}
        assert names - {INTERFACE} == {INTROSPECTABLE, PEER, PROPERTIES}
        assert (INTERFACE in names) == (path == PATH)


def test_no_reply_when_none_is_wanted(client: RawClient) -> None:
    for member in ("Fail", "FailLater", "Nope", "Touch", "Refuse"):
        client.send(HERE._replace(member=member), flags=wire.NO_REPLY_EXPECTED)
    time.sleep(0.2)
    serial = client.send(HERE._replace(member="Touch"))
    assert client.next_reply().reply_serial == serial


@pytest.mark.parametrize("argument", ["there", "missing"])
def test_a_read_that_nobody_waits_for_does_no_work(client: RawClient, argument: str) -> None:
    def unheard(member: str, count: int) -> int:
        """How often the handler ran for so many calls."""
        before = int(client.call("Worked").values[0])
        fields = HERE._replace(member=member, signature="s")
        for _ in range(count):
            client.send(fields, encode("s", [argument]), flags=wire.NO_REPLY_EXPECTED)
        return int(client.call("Worked").values[0]) - before

    started = time.monotonic()
    assert unheard("Read", 2000) == 0
    at_once = unheard("ReadAtOnce", 2000)
    later = unheard("ReadLater", 2000)
    seconds = int(time.monotonic() - started) + 2
    assert 1 <= at_once <= seconds, "one a second tells that there is nothing else to do"
    assert 1 <= later <= 64 * seconds


def test_big_endian_caller(client: RawClient) -> None:
    client.serial += 1
    body = struct.pack(">I", 1) + b"x\0"
    fields = HERE._replace(member="GetHeaders", signature="s")
    client.socket.sendall(big_endian_call(client.serial, fields, body))
    assert client.reply(client.serial) == Reply("", [TREE])


def test_descriptor_is_passed_and_closed(client: RawClient, service: Service) -> None:
    before = service.descriptors()
    for _ in range(50):
        client.send(HERE._replace(member="Pipe"))
        client.reply(client.serial)
        client.send(HERE._replace(member="Pipe"), flags=wire.NO_REPLY_EXPECTED)
    assert client.call("Touch").name == ""
    assert service.descriptors() <= before


def test_second_service_is_told_that_the_name_is_taken(bus: Bus, service: Service, tmp_path: Path) -> None:
    assert service.process.poll() is None
    command = [sys.executable, "-m", "tests.support.dbus_service", bus.address]
    second = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(REPOSITORY)},
        timeout=20,
        cwd=tmp_path,
        check=False,
    )
    assert second.returncode == 1
    assert f"NameTaken: the name {NAME} is taken" in second.stderr
