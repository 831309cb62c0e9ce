"""``exec`` and ``env`` where the headers are there: the same as ever, before asyncio would be imported."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from typing import Any

import pytest

from kheadersd.cli.calls import Caller
from kheadersd.cli.client import Client
from kheadersd.cli.present import PresentClient
from kheadersd.names import SERVICE, SERVICE_PATH
from kheadersd.precompiled.sd_bus import Bus, CannotAsk, ErrorReply
from tests.support.ctl_rig import Ctl, Service

pytestmark = pytest.mark.slow

OPTIONS = {"refresh": ("b", True), "sources": ("as", ["tree", "sysfs"]), "reason": ("s", "caf\u00e9")}


@pytest.fixture
def address(bus: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus)
    return bus


def _bus() -> Bus:
    return Bus(SERVICE, SERVICE_PATH, session=False, seconds=10)


@pytest.mark.parametrize(
    ("command", "is_at_once"),
    [
        (["env"], True),
        (["exec", "true"], True),
        (["exec", "--precompiled", "true"], True),
        (["env", "cold"], False),
        (["env", "--refresh"], False),
        (["exec", "--source=tree", "true"], False),
    ],
)
def test_what_is_there_is_told_without_asyncio(ctl: Ctl, command: list[str], *, is_at_once: bool) -> None:
    ctl.command[1:1] = ["-X", "importtime"]
    done = ctl(*command)
    assert done.returncode == 0
    assert ("| asyncio\n" not in done.stderr) == is_at_once


def test_what_must_be_extracted_first_is_waited_for(ctl: Ctl, service: Service) -> None:
    script = 'echo "$BCC_KERNEL_SOURCE"'
    there = ctl("exec", "--", "sh", "-c", script)
    assert service.next_line() == "lease ended"
    cold = ctl("exec", "--release=cold", "--", "sh", "-c", script)
    assert cold.stdout == there.stdout != "\n"
    assert (cold.returncode, cold.stderr) == (0, "")
    assert service.next_line() == "lease ended"


def test_why_there_is_nothing_precompiled_is_said_once(ctl: Ctl) -> None:
    for release in ("6.1.0", "cold"):
        done = ctl("exec", "--precompiled", f"--release={release}", "--", sys.executable, "-I", "-c", "")
        assert done.returncode == 0
        assert done.stderr.count("compiles without precompiled headers: its Python ignores PYTHONPATH") == 1


@pytest.mark.usefixtures("service", "address")
def test_answers_are_those_of_the_other_client() -> None:
    async def ask(client: Caller) -> list[Any]:
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
    with contextlib.closing(_bus()) as bus, pytest.raises(StopIteration) as done:
        ask(PresentClient(bus)).send(None)
    assert done.value.value == expected
    options = json.loads(expected[-1]["x-options"])
    assert options == {name: value for name, (_, value) in OPTIONS.items()}


@pytest.mark.usefixtures("service", "address")
def test_errors_have_their_names() -> None:
    bus = _bus()
    with pytest.raises(ErrorReply, match="the archive is damaged") as caught:
        bus.call(SERVICE, "GetHeaders", "sa{sv}", ("damaged", {}))
    assert caught.value.name == "org.kheaders.Provide.Error.Corrupt"
    with pytest.raises(CannotAsk, match="append_basic: Invalid argument"):
        bus.call(SERVICE, "Lookup", "s", ("\udcff",))
    assert bus.call(SERVICE, "Lookup", "s", ("6.1.0",))  # the connection goes on
    bus.close()


def test_without_libsystemd_all_is_as_before(ctl: Ctl) -> None:
    program = (
        "import sys; from kheadersd.precompiled import sd_bus; sd_bus._LIBRARY = 'libnone.so'; "
        "from kheadersd.cli.__main__ import main; sys.exit(main())"
    )
    expected = ctl("env")
    ctl.command[-2:] = ["-c", program]
    done = ctl("env")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, "")
    assert done.stdout


def test_without_a_daemon_the_reason_is_told(lonely: Ctl) -> None:
    for command in (["env"], ["exec", "true"]):
        done = lonely(*command)
        assert done.returncode == 5
        assert "kheadersd does not answer" in done.stderr
