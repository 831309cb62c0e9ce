"""A client with no manners: it sends whatever frames a test wants, and reads only when told to."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import decode, encode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME, PATH, INTERFACE = "org.kheaders.Provide", "/org/kheaders/Provide", "org.kheaders.Provide"
BUS = "org.freedesktop.DBus"
HERE = wire.Fields(path=PATH, interface=INTERFACE, destination=NAME)


class Reply(NamedTuple):
    """Attributes: name is the error's name, "" for a return."""

    name: str
    values: list[Any]


class RawClient:
    """A blocking connection to the bus."""

    def __init__(self, socket_path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(socket_path))
        uid = str(os.getuid()).encode().hex()
        self.socket.sendall(f"\0AUTH EXTERNAL {uid}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n".encode())
        self.data = b""
        while self.data.count(b"\r\n") < 2:
            self.data += self.socket.recv(4096)
        self.data = self.data.split(b"\r\n", 2)[2]
        self.serial = 0
        self.name = str(self.ask_bus("Hello").values[0])

    def close(self) -> None:
        self.socket.close()

    def send(
        self,
        fields: wire.Fields,
        body: bytes = b"",
        *,
        flags: int = 0,
        descriptors: Sequence[int] = (),
    ) -> int:
        """Send a method call; return its serial."""
        self.serial += 1
        frame = wire.method_call(self.serial, fields, body, flags)
        if descriptors:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            self.socket.sendmsg([frame], [rights])
        else:
            self.socket.sendall(frame)
        return self.serial

    def call(
        self, member: str, signature: str = "", values: Sequence[Any] = (), *, flags: int = 0, **changes: str
    ) -> Reply:
        """Call the service and wait for the answer."""
        fields = HERE._replace(member=member, signature=signature, **changes)  # type: ignore[arg-type]
        return self.reply(self.send(fields, encode(signature, values), flags=flags))

    def ask_bus(self, member: str, signature: str = "", values: Sequence[Any] = ()) -> Reply:
        """Call the bus itself."""
        return self.call(
            member, signature, values, destination=BUS, path="/org/freedesktop/DBus", interface=BUS
        )

    def receive(self) -> tuple[int, wire.Fields, bytes]:
        """The next message: its kind, fields and body."""
        while True:
            if len(self.data) >= wire.PREFIX:
                size = wire.measure(self.data)
                total = size.header + size.body
                if len(self.data) >= total:
                    frame, self.data = self.data[:total], self.data[total:]
                    return frame[1], wire.parse_fields(frame[16 : 16 + size.fields]), frame[size.header :]
            more = self.socket.recv(1 << 20)
            if not more:
                raise EOFError("the bus ended the connection")
            self.data += more

    def next_reply(self) -> wire.Fields:
        """The fields of the next answer to any call."""
        while True:
            kind, fields, _ = self.receive()
            if kind in (wire.METHOD_RETURN, wire.ERROR):
                return fields

    def reply(self, serial: int) -> Reply:
        """Wait for the answer to a call, passing over all else."""
        while True:
            kind, fields, body = self.receive()
            if kind in (wire.METHOD_RETURN, wire.ERROR) and fields.reply_serial == serial:
                return Reply(fields.error_name, decode(fields.signature, body, once=True))


def big_endian_call(serial: int, fields: wire.Fields, body: bytes) -> bytes:
    """A METHOD_CALL frame as a machine of the other byte order would send it."""
    data = b""
    for code, value in enumerate(fields, start=1):
        if not value:
            continue
        kind = "o" if code == 1 else "g" if code == 8 else "s"
        text = str(value).encode()
        data += bytes(-len(data) & 7) + bytes((code, 1, ord(kind), 0))
        data += (struct.pack("B", len(text)) if kind == "g" else struct.pack(">I", len(text))) + text + b"\0"
    head = struct.pack(">4BIII", ord("B"), 1, 0, 1, len(body), serial, len(data))
    return head + data + bytes(-len(data) & 7) + body
