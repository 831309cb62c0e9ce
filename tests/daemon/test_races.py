"""Two things at the very same moment: memory and disk say the same afterwards."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from kheadersd.dbus.codec import Variant, encode
from kheadersd.errors import FREEDESKTOP_ERRORS, PROVIDE_ERRORS
from tests.support.archives import kheaders_files, make_kheaders
from tests.support.callers import HEADERS, NO_OPTIONS, client
from tests.support.clients import durable, wait_until
from tests.support.raw import HERE
from tests.support.running import Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = pytest.mark.slow

ROUNDS = 40
GET_HEADERS = HERE._replace(member="GetHeaders", signature=HEADERS)
ANY = encode(HEADERS, ["", NO_OPTIONS])


def settled(bus: Bus, daemon: Daemon) -> None:
    """Entries are known exactly if they are on the disk, and nothing else is there."""
    deadline = time.monotonic() + 10
    while True:
        (text,) = bus.call("Describe")
        state = json.loads(text)
        known = sorted(Path(entry["path"]).parent.name for entry in state["cache"]["entries"])
        if state["activity"] == "idle" and known == daemon.entries() and not daemon.leftovers():
            return
        assert time.monotonic() < deadline, (known, daemon.entries(), daemon.leftovers())
        time.sleep(0.05)


def test_a_caller_leaves_while_its_entry_appears(bus: Bus, daemon: Daemon) -> None:
    chance = random.Random(1)
    for _ in range(ROUNDS):
        bus.call("Remove", "sa{sv}", "", "0")
        with client(bus.socket) as leaving:
            leaving.send(GET_HEADERS, ANY)
            time.sleep(chance.uniform(0.002, 0.03))
    settled(bus, daemon)


def test_an_entry_is_removed_while_it_is_confirmed(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    chance = random.Random(2)
    with client(bus.socket) as getting, client(bus.socket) as removing:
        for _ in range(ROUNDS):
            getting.call("GetHeaders", HEADERS, ["", NO_OPTIONS])
            os.utime(host.archive)
            asked = getting.send(GET_HEADERS, ANY)
            time.sleep(chance.uniform(0, 0.006))
            removing.call("Remove", HEADERS, ["", NO_OPTIONS])
            reply = getting.reply(asked)
            assert reply.name == "", reply
    settled(bus, daemon)


def test_another_hosts_entry_is_not_handed_out(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    daemon = make_daemon(bus, root=host.root)
    assert bus.call("GetHeaders", "sa{sv}", RELEASE, "0")[1]["fresh"] is True
    daemon.stop()
    other = ServedHost(tmp_path / "other")
    daemon.root = other.root
    daemon.start()
    assert isinstance(bus.call("Lookup", "s", RELEASE), Refused)
    # The very same archive there makes it that host's entry too.
    other.show(make_kheaders(RELEASE))
    assert bus.call("GetHeaders", "sa{sv}", RELEASE, "0")[1]["fresh"] is False
    assert not isinstance(bus.call("Lookup", "s", RELEASE), Refused)


def test_a_refused_download_hides_no_other_source(bus: Bus, daemon: Daemon) -> None:
    with client(bus.socket, "nobody") as nobody:
        options = {"sources": Variant("as", ["package", "sysfs"])}
        assert nobody.call("GetHeaders", HEADERS, ["", options]).name == ""
        only = nobody.call("GetHeaders", HEADERS, ["9.9.9", {"sources": Variant("as", ["package"])}])
        assert only.name == FREEDESKTOP_ERRORS + "AccessDenied"
        others = nobody.call("GetHeaders", HEADERS, ["9.9.9", NO_OPTIONS])
        assert others.name == PROVIDE_ERRORS + "NotAvailable"
        assert "package: " in others.values[0]


def test_lookup_keeps_to_the_configured_sources(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    for name, content in kheaders_files(RELEASE).items():
        path = host.modules / "build" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Headers]\nSources=sysfs\n")
    make_daemon(bus, root=host.root, arguments=[f"--config={config}"])
    assert isinstance(bus.call("Lookup", "s", ""), Refused)
    path, details = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert details["source"] == "sysfs"
    assert bus.call("Lookup", "s", "")[0] == path


def test_one_source_that_is_broken_does_not_hide_the_reasons_of_the_others(bus: Bus, daemon: Daemon) -> None:
    (daemon.cache / ".packages").write_text("in the way")
    refused = bus.call("GetHeaders", "sa{sv}", "9.9.9", "0")
    assert isinstance(refused, Refused)
    for name in ("tree: ", "sysfs: ", "module-file: "):
        assert name in refused.message
    assert bus.get("LastError")[1] == refused.message


@pytest.mark.parametrize("name", ["include/uapi/linux/deep.h", "arch/x86/include/uapi/asm/deep.h"])
def test_a_deep_directory_that_was_emptied_is_noticed(
    bus: Bus, host: ServedHost, daemon: Daemon, name: str
) -> None:
    host.show(make_kheaders(RELEASE, {name: b"deep\n"}))
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is False
    (Path(path) / name).unlink()
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is True


def test_verify_says_the_same_twice(bus: Bus, daemon: Daemon) -> None:
    path = Path(bus.call("GetHeaders", "sa{sv}", "", "0")[0]) / "arch/x86/include/asm/ptrace.h"
    # Pruning, which follows once the entry is durable, removes what is damaged.
    wait_until(lambda: durable(daemon))
    bus.call("Prune", "a{sv}", "0")
    path.chmod(0o644)
    path.write_bytes(b"changed")
    first = bus.call("Verify", "sa{sv}", "", "0")
    assert first[0] is False
    assert bus.call("Verify", "sa{sv}", "", "0") == first
    assert path.exists(), "reading removes nothing"
    assert isinstance(bus.call("Lookup", "s", ""), Refused)
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is True
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
