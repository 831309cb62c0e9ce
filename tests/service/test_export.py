"""Headers for those who see the bus and not the cache, as a tar archive through a pipe."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
from pathlib import Path

from archives import kheaders_files, make_kheaders
from bus.raw import HERE
from running import Bus, Daemon

from kheadersd.bus import encode
from kheadersd.bus.connection import Connection
from service.callers import HEADERS, NO_OPTIONS, client
from service.clients import Ctl, eventually, wait_until
from service.conftest import RELEASE, ServedHost


def contents(archive: bytes) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if (file := tar.extractfile(member)) is not None:
                found[member.name] = file.read()
    return found


def read(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


def test_the_command_writes_an_archive(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    path = tmp_path / "headers.tar"
    ctl = Ctl(bus, user="nobody")
    done = ctl("export")
    assert done.returncode == 0, done.stderr
    path.write_bytes(done.stdout.encode("utf-8", "surrogateescape"))
    assert contents(path.read_bytes()) == kheaders_files(RELEASE)
    wait_until(lambda: bus.get("LeaseCount") == 0)


def test_both_parts_of_a_split_tree(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    for name, content in kheaders_files(RELEASE).items():
        part = "build" if "generated" in name else "source"
        file = host.modules / part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (host.modules / "build" / "Makefile").write_text("# nobody needs it\n")
    done = Ctl(bus)("export")
    assert contents(done.stdout.encode()) == kheaders_files(RELEASE)


async def test_the_entry_stays_until_all_is_read(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": os.urandom(300_000).hex().encode()}))
    connection = await Connection.open(bus.address)
    try:
        service = ("org.kheaders.Provide", "/org/kheaders/Provide", "org.kheaders.Provide")
        answer = await connection.call(*service, "Export", HEADERS, ["", {}], accept_fds=True)
        assert answer.values[1]["release"].value == RELEASE
        assert bus.get("LeaseCount") == 1
        archive = await asyncio.to_thread(read, answer.fds[answer.values[0]])
        assert len(contents(archive)) == len(kheaders_files(RELEASE)) + 1
        await eventually(lambda: bus.get("LeaseCount") == 0)
    finally:
        await connection.close()


def test_readers_who_do_not_read_are_few_and_end_with_their_callers(
    bus: Bus, daemon: Daemon, host: ServedHost
) -> None:
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": os.urandom(300_000).hex().encode()}))
    bus.call("GetHeaders", "sa{sv}", "", "0")
    time.sleep(0.5)
    descriptors = daemon.descriptors()
    with client(bus.socket, "nobody") as nobody:
        for _ in range(6):
            nobody.send(HERE._replace(member="Export", signature=HEADERS), encode(HEADERS, ["", NO_OPTIONS]))
        wait_until(lambda: "too many headers are being exported" in daemon.log.read_text())
        wait_until(lambda: bus.get("LeaseCount") == 4)  # those who were refused had one until then
        assert bus.call("Lookup", "s", "")[1]["release"] == RELEASE
    wait_until(lambda: bus.get("LeaseCount") == 0)
    wait_until(lambda: daemon.descriptors() <= descriptors)


def test_an_export_that_is_cut_off_by_the_end_of_the_daemon(
    bus: Bus, daemon: Daemon, host: ServedHost
) -> None:
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": os.urandom(300_000).hex().encode()}))
    with client(bus.socket) as caller:
        assert caller.call("Export", HEADERS, ["", NO_OPTIONS]).name == ""
        assert daemon.stop() == 0
    daemon.start()
