"""The interface over a state in the tests' own process: what a call leaves behind, and what it is spared."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from kheadersd.daemon import interface as service_module
from kheadersd.daemon.answers import Answers
from kheadersd.daemon.interface import Service
from kheadersd.daemon.log_control import log_control
from kheadersd.daemon.parts import Parts
from kheadersd.daemon.polkit import Authority
from kheadersd.dbus.codec import Variant, decode
from kheadersd.dbus.credentials import Credentials
from kheadersd.dbus.objects import Call
from kheadersd.errors import NotAvailable
from kheadersd.host.host import Host
from kheadersd.journal import Journal
from kheadersd.names import SERVICE, SERVICE_PATH
from tests.support.archives import make_kheaders
from tests.support.clients import eventually
from tests.support.served_host import RELEASE, ServedHost


class OfRoot(Call):
    """A call of root's on no bus."""

    def __init__(self, member: str, args: Sequence[Any]) -> None:
        bus = cast("Any", self)
        super().__init__(":1.7", SERVICE_PATH, SERVICE, member, args, allow_interactive=False, connection=bus)

    async def credentials(self) -> Credentials:
        return Credentials(0, os.getpid())

    portion = 0

    def known_user(self, sender: str) -> int:  # noqa: ARG002
        return 0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    served = ServedHost(tmp_path / "root")
    served.show(make_kheaders(RELEASE))
    return Host(served.root)


@pytest.fixture
def service(state: Parts) -> Service:
    return Service(state, Authority(), Answers())


@pytest.mark.parametrize("member", ["Acquire", "Export"])
async def test_a_lease_is_given_back_whatever_fails(
    service: Service, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One descriptor is the daemon's end, the other what the caller would have got."""
    method = service.interface.methods[member]
    reply = await cast("Any", method.handler(OfRoot(member, [RELEASE, {}])))
    for descriptor in reply.fds:
        os.close(descriptor)

    def refuse(signature: str, values: Sequence[Any]) -> bytes:
        raise ValueError("not values of signature")

    monkeypatch.setattr(service_module, "encode", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ValueError, match="not values of"):
            await cast("Any", method.handler(OfRoot(member, [RELEASE, {}])))
    await eventually(lambda: not len(service.parts.leases) and len(os.listdir("/proc/self/fd")) <= before)


async def test_the_environment_is_that_of_now(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    host = service.parts.host
    monkeypatch.setattr(Host, "is_live", True)
    handler = cast("Any", service.interface.methods["GetHeaders"].handler)

    def ready() -> tuple[str, dict[str, str]]:
        call = OfRoot("GetHeaders", [RELEASE, {"sources": Variant("as", ["sysfs"])}])
        path, details = decode("sa{sv}", handler(call).body)
        return path, details["environment"].value

    await handler(OfRoot("GetHeaders", [RELEASE, {}]))
    path, environment = ready()
    assert environment["BCC_KERNEL_SOURCE"] == path
    (host.modules_directory(host.release_of(RELEASE)) / "build").symlink_to(path)
    await asyncio.sleep(0)
    assert ready() == (path, {})


@pytest.mark.parametrize("member", ["GetHeaders", "GetTypes", "GetPch", "Lookup"])
async def test_that_the_running_kernel_is_not_known_is_noted(service: Service, member: str) -> None:
    service.parts.host.running, service.parts.host.running_unknown = None, "it is not known what runs"
    all_args: dict[str, list[Any]] = {"Lookup": [""], "GetPch": ["", "default", {}]}
    with pytest.raises(NotAvailable):
        service.interface.methods[member].handler(OfRoot(member, all_args.get(member, ["", {}])))
    name, message = service.parts.failures.last
    assert name == NotAvailable.bus_name
    assert "not known what runs" in message
    assert service.parts.metrics.failures.values["NotAvailable"] == 1


def test_what_reads_does_nothing_for_those_who_wait_for_no_answer(service: Service) -> None:
    changing = {"Remove", "Prune", "UnloadModule"}
    reading = {
        name
        for name, method in service.interface.methods.items()
        if method.only_reads or method.reads_at_once
    }
    assert reading == service.interface.methods.keys() - changing
    assert log_control(Journal(target="null"), Authority()).methods == {}


async def test_a_failure_for_the_running_kernel_is_noted_with_its_release(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[str | None] = []
    monkeypatch.setattr(service.parts.failures, "note", lambda error, release, uid: noted.append(release))  # noqa: ARG005
    method = service.interface.methods["GetHeaders"]
    for release in ("", "6.9-other"):
        call = OfRoot("GetHeaders", [release, {"sources": Variant("as", ["tree"])}])
        with pytest.raises(NotAvailable):
            await cast("Any", method.handler(call))
    assert noted == [RELEASE, "6.9-other"]
