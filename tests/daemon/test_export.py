"""Headers for those who see the bus and not the cache, as a tar archive through a pipe."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import time
from pathlib import Path

import pytest

from kheadersd.dbus.codec import encode
from kheadersd.dbus.connection import Connection
from tests.support.archives import kheaders_files, make_kheaders
from tests.support.callers import HEADERS, NO_OPTIONS, client
from tests.support.clients import Ctl, eventually, wait_until
from tests.support.raw import HERE
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = pytest.mark.slow

TREE = kheaders_files(RELEASE) | {
    "arch/x86/include/generated/asm/rwonce.h": b"#include <asm-generic/rwonce.h>\n"
}
"""An installed one."""


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
    for name, content in TREE.items():
        part = "build" if "generated" in name else "source"
        file = host.modules / part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (host.modules / "build" / "Makefile").write_text("# no program needs it\n")
    done = Ctl(bus)("export")
    assert contents(done.stdout.encode()) == TREE


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


def test_a_tree_in_place_is_copied_by_the_copiers_rules(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    """Nothing that is kept from others leaves, and nothing from elsewhere."""
    build = host.modules / "build"
    for name, content in TREE.items():
        (build / name).parent.mkdir(parents=True, exist_ok=True)
        (build / name).write_bytes(content)
    secret = host.root / "etc/secret.h"
    secret.parent.mkdir()
    secret.write_text("#define SECRET\n")
    header = build / "include/linux/extra.h"
    nobody = Ctl(bus, "nobody")
    header.write_text("#define PRIVATE\n")
    header.chmod(0o600)
    for why in ("extra.h is not copied", "where no headers of this kernel are"):
        done = nobody("export")
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
        header.unlink(missing_ok=True)
        header.symlink_to("/etc/secret.h")
    header.unlink()
    done = nobody("export")
    assert done.returncode == 0, done.stderr
    assert contents(done.stdout.encode()) == TREE
    wait_until(lambda: bus.get("LeaseCount") == 0)


@pytest.mark.parametrize("how", ["emptied", "gone", "changed", "a FIFO"])
def test_a_damaged_entry_is_no_whole_archive(bus: Bus, daemon: Daemon, host: ServedHost, how: str) -> None:
    """The damage is done while the archive is read: else the headers are made again first."""
    large = os.urandom(300_000).hex().encode()
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": large, "include/linux/last.h": b"last\n"}))
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    last = Path(path, "include/linux/last.h")
    with Ctl(bus).started("export") as process:
        # Its output is not read, so that it waits somewhere in the large file.
        wait_until(lambda: bus.get("LeaseCount") == 1)
        last.unlink()
        if how == "emptied":
            last.touch()
        elif how == "changed":
            last.write_bytes(b"LAST\n")
        elif how == "a FIFO":
            os.mkfifo(last)
        _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the archive was cut short" in complaint
    assert f"an export of the headers of {RELEASE} was cut short" in daemon.log.read_text()
    assert isinstance(bus.call("Lookup", "s", ""), Refused)
    assert Ctl(bus)("export").returncode == 0


def test_the_command_notices_the_end_of_the_daemon(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": os.urandom(300_000).hex().encode()}))
    for end in (daemon.stop, daemon.kill):
        with Ctl(bus).started("export") as process:
            wait_until(lambda: bus.get("LeaseCount") == 1)
            end()
            _, complaint = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "the archive was cut short" in complaint
        daemon.start()


def test_an_export_that_is_cut_off_by_the_end_of_the_daemon(
    bus: Bus, daemon: Daemon, host: ServedHost
) -> None:
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": os.urandom(300_000).hex().encode()}))
    with client(bus.socket) as caller:
        assert caller.call("Export", HEADERS, ["", NO_OPTIONS]).name == ""
        assert daemon.stop() == 0
    daemon.start()


def test_a_reader_who_takes_too_long_is_cut_off(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    """With a limit that a test can wait for."""
    (tmp_path / "sitecustomize.py").write_text(
        "import kheadersd.headers.export\nkheadersd.headers.export._TIME_LIMIT = 0.5\n"
    )
    path = f"{tmp_path}:{REPOSITORY}"
    daemon = make_daemon(bus, root=host.root, environment={"PYTHONPATH": path})
    host.show(make_kheaders(RELEASE, {"include/linux/large.h": os.urandom(300_000).hex().encode()}))
    with Ctl(bus).started("export") as process:
        wait_until(lambda: "did not read all of it within 0.5 s" in daemon.log.read_text())
        wait_until(lambda: bus.get("LeaseCount") == 0)
        _, complaint = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the archive was cut short" in complaint
