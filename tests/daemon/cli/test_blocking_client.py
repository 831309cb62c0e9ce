"""Commands that do nothing but call go by libsystemd: the same answers as by asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import json
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kheadersd.cli.blocking_client import BlockingClient, completed
from kheadersd.cli.calls import ServiceClient
from kheadersd.cli.client import Client
from kheadersd.cli.failures import CommandError
from kheadersd.names import BUS_NAME, BUS_PATH, SERVICE, SERVICE_PATH
from kheadersd.precompiled.sd_bus import Bus, CannotAsk, ErrorReply, Method, Signal
from tests.support.ctl_rig import Ctl, Service

pytestmark = pytest.mark.slow

OPTIONS = {"refresh": ("b", True), "sources": ("as", ["tree", "sysfs"]), "reason": ("s", "caf\u00e9")}
OURS, STRANGERS = "org.kheaders.Test", "org.kheaders.Stranger"
ENV = ["env"]
EXEC = ["exec", "--", "true"]


@pytest.fixture
def address(bus: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus)
    return bus


def _call(bus: Bus, member: str, signature: str, *values: Any) -> list[Any]:
    return bus.call(Method(SERVICE, SERVICE_PATH, SERVICE, member), signature, values, seconds=10)


@pytest.mark.parametrize(
    ("command", "has_asyncio"),
    [
        (ENV, False),
        (EXEC, False),
        (["get"], False),
        (["status"], False),
        (["export"], True),
    ],
)
def test_what_only_calls_does_not_import_asyncio(ctl: Ctl, command: list[str], *, has_asyncio: bool) -> None:
    ctl.command[1:1] = ["-X", "importtime"]
    done = ctl(*command)
    assert "| kheadersd.cli.arguments\n" in re.sub(r"\| +", "| ", done.stderr)
    assert bool(re.search(r"\| +asyncio$", done.stderr, re.MULTILINE)) == has_asyncio


@pytest.mark.usefixtures("service", "address")
def test_answers_are_those_of_the_other_client() -> None:
    async def ask(client: ServiceClient) -> list[Any]:
        lease, *_, details = await client.call("Acquire", "sa{sv}", "6.1.0", OPTIONS)
        os.close(lease)
        found = await client.call("GetHeaders", "sa{sv}", "6.1.0", OPTIONS)
        return [await client.properties(), await client.call("ListEntries"), found, details]

    async def ask_by_asyncio() -> list[Any]:
        client = await Client.connect(session=False)
        try:
            return await ask(client)
        finally:
            await client.close()

    expected = asyncio.run(ask_by_asyncio())
    with contextlib.closing(BlockingClient(session=False)) as client:
        assert completed(ask(client)) == expected
    options = json.loads(expected[-1]["x-options"])
    assert options == {name: value for name, (_, value) in OPTIONS.items()}


@pytest.mark.usefixtures("service", "address")
def test_errors_have_their_names() -> None:
    with contextlib.closing(Bus(session=False)) as bus:
        with pytest.raises(ErrorReply, match="the archive is damaged") as caught:
            _call(bus, "GetHeaders", "sa{sv}", "damaged", {})
        assert caught.value.name == "org.kheaders.Provide.Error.Corrupt"
        with pytest.raises(CannotAsk, match="append_basic: Invalid argument"):
            _call(bus, "Lookup", "s", "\udcff")
        assert _call(bus, "Lookup", "s", "6.1.0")  # the connection goes on


@pytest.mark.usefixtures("service")
def test_signals_of_strangers_are_not_read(address: str) -> None:
    """They may have file descriptors; the bus hands on whatever somebody sends to a unique name."""
    heard: list[Signal] = []
    ask_bus = functools.partial(Method, BUS_NAME, BUS_PATH, BUS_NAME)
    with contextlib.closing(Bus(session=False)) as bus, contextlib.closing(Bus(session=False)) as stranger:
        bus.call(ask_bus("RequestName"), "su", [OURS, 0], seconds=10)
        stranger.call(ask_bus("RequestName"), "su", [STRANGERS, 0], seconds=10)
        owner, strange = (
            bus.call(ask_bus("GetNameOwner"), "s", [name], seconds=10)[0] for name in (SERVICE, STRANGERS)
        )
        for sender, count in ((owner, 0), (strange, 1)):
            bus.listen(sender, heard.append)
            _send_progress(stranger)
            _call(bus, "Lookup", "s", "6.1.0")
            assert len(heard) == count
    (descriptor,) = heard[0].values
    os.close(descriptor)


def _send_progress(bus: Bus) -> None:
    """Send the signal with a descriptor, to `OURS` alone."""
    message = ctypes.c_void_p()
    names = (text.encode() for text in (SERVICE_PATH, SERVICE, "Progress"))
    bus._do("sd_bus_message_new_signal", bus._bus, ctypes.byref(message), *names)
    bus._put(message, "h", 0)
    bus._do("sd_bus_message_set_destination", message, OURS.encode())
    bus._do("sd_bus_send", bus._bus, message, None)
    bus._library.sd_bus_message_unref(message)
    bus.call(Method(BUS_NAME, BUS_PATH, BUS_NAME, "GetId"), "", [], seconds=10)  # it has arrived before this


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_the_lease_is_no_standard_stream(ctl: Ctl, service: Service, tmp_path: Path, closed: str) -> None:
    """Where the command had none; it lasts while the command closes or replaces what is one."""
    go, running = tmp_path / "go", tmp_path / "running"
    os.mkfifo(go)
    script = f"exec </dev/null >/dev/null 2>&1; echo >{running}; read x <{go}"
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *ctl.command, "exec", "--", "sh", "-c", script]
    ctl.command = words
    with ctl.start() as child:
        deadline = time.monotonic() + 20
        while not running.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert service.is_silent()
        go.write_text("\n")
        assert child.wait(10) == 0
    assert service.next_line() == "lease ended"


def test_interrupted_while_the_daemon_works(ctl: Ctl, service: Service) -> None:
    with ctl.start("env", "forever") as child:
        assert service.next_line() == "asked"
        child.send_signal(signal.SIGINT)
        time.sleep(0.02)
        child.send_signal(signal.SIGINT)  # people press it twice
        assert child.communicate(timeout=10) == ("", "")
    assert child.returncode == 130


def _start_connecting(ctl: Ctl, directory: Path) -> socket.socket:
    """Let it connect to a bus that takes connections and says nothing."""
    mute = socket.socket(socket.AF_UNIX)
    mute.bind(str(directory / "mute"))
    mute.listen()
    ctl.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path={directory}/mute"
    return mute


def test_interrupted_while_the_bus_says_nothing(lonely: Ctl, tmp_path: Path) -> None:
    with _start_connecting(lonely, tmp_path) as mute, lonely.start(*ENV) as child:
        connection, _ = mute.accept()
        with connection:
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=5) == ("", "")
    assert child.returncode == 130


def test_a_bus_that_says_nothing(lonely: Ctl, tmp_path: Path) -> None:
    with _start_connecting(lonely, tmp_path):
        done = lonely(*ENV)
    assert done.returncode == 5
    assert "no system bus: " in done.stderr
    assert "Start dbus" in done.stderr


def test_a_program_is_no_address(lonely: Ctl, tmp_path: Path) -> None:
    ran, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho >{ran}\n")
    program.chmod(0o755)
    lonely.environment["DBUS_SYSTEM_BUS_ADDRESS"] = f"unix:path=/nowhere;unixexec:path={program}"
    done = lonely(*ENV)
    assert done.returncode == 5
    assert not ran.exists()


def test_why_there_is_nothing_precompiled_is_said_once(ctl: Ctl) -> None:
    done = ctl("exec", "--precompiled", "--", sys.executable, "-I", "-c", "")
    assert done.returncode == 0
    assert done.stderr.count("compiles without precompiled headers: its Python ignores PYTHONPATH") == 1


@pytest.mark.parametrize(
    "lacking",
    [
        "from kheadersd.precompiled import sd_bus; sd_bus._LIBRARY = 'libnone.so'",
        "sys.modules['ctypes'] = None",
    ],
)
def test_without_libsystemd_or_ctypes_all_is_as_before(ctl: Ctl, lacking: str) -> None:
    program = f"import sys; {lacking}; from kheadersd.cli.__main__ import main; sys.exit(main())"
    expected = ctl(*ENV)
    ctl.command[-2:] = ["-c", program]
    done = ctl(*ENV)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, "")
    assert done.stdout


def test_without_a_daemon_the_reason_is_told(lonely: Ctl) -> None:
    for command in (ENV, EXEC, ["get"]):
        done = lonely(*command)
        assert done.returncode == 5
        assert "kheadersd does not answer" in done.stderr
    code, shown = lonely.on_terminal("get")
    assert code == 5
    assert shown.count("kheadersd does not answer") == 1


@pytest.mark.usefixtures("address")
def test_a_daemon_that_ends_meanwhile(service: Service) -> None:
    async def ask(client: ServiceClient) -> object:
        service.process.terminate()
        return await client.call("GetHeaders", "sa{sv}", "forever", {})

    with contextlib.closing(BlockingClient(session=False)) as client:
        with pytest.raises(CommandError, match="kheadersd does not answer") as caught:
            completed(ask(client))
        assert caught.value.code == 5
