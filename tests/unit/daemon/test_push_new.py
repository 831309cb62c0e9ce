"""What is pushed unasked: what was extracted here, if the configuration wants it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kheadersd.daemon.push_new import UNIT, PushNew
from kheadersd.errors import AccessDenied

START = [("StartUnit", (UNIT, "replace"))]


class MadeUpManager:
    """A service manager that notes what it is asked for.

    Attributes:
        refusal: what it answers instead.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, Sequence[Any]]] = []
        self.refusal: AccessDenied | None = None

    async def call(
        self,
        destination: str,  # noqa: ARG002
        path: str,  # noqa: ARG002
        interface: str,  # noqa: ARG002
        member: str,
        signature: str,  # noqa: ARG002
        values: Sequence[Any],
    ) -> Any:
        self.asked.append((member, values))
        if self.refusal is not None:
            raise self.refusal


def entry(source: str, kind: str = "headers") -> Any:
    return SimpleNamespace(record=SimpleNamespace(source=source, kind=kind))


async def settled(push: PushNew) -> None:
    await push._background.settle()


@pytest.mark.parametrize(
    ("wanted", "source", "kind", "started"),
    [
        (True, "module-file", "headers", True),
        (True, "package", "headers", True),
        (True, "registry", "headers", False),
        (True, "sysfs", "types", False),
        (False, "module-file", "headers", False),
    ],
)
async def test_what_starts_the_unit(wanted: bool, source: str, kind: str, started: bool) -> None:
    manager = MadeUpManager()
    push = PushNew(manager, lambda: wanted, lambda: False)
    push.on_added(entry(source, kind))
    await settled(push)
    assert manager.asked == (START if started else [])


@pytest.mark.parametrize(
    ("wants_pchs", "origin", "started"),
    [(True, "", True), (False, "", False), (True, "registry.example.org/kernels@sha256:0", False)],
)
async def test_precompiled_headers_start_the_unit(wants_pchs: bool, origin: str, started: bool) -> None:
    manager = MadeUpManager()
    push = PushNew(manager, lambda: True, lambda: wants_pchs)
    pch: Any = SimpleNamespace(record=SimpleNamespace(origin=origin))
    push.on_pch_added(pch)
    await settled(push)
    assert manager.asked == (START if started else [])


async def test_vmlinux_h_starts_the_unit_where_files_are_pushed() -> None:
    manager = MadeUpManager()
    push = PushNew(manager, lambda: True, lambda: True)
    push.on_added(entry("bpftool", "types"))
    await settled(push)
    assert manager.asked == START


async def test_a_refusal_is_told(caplog: pytest.LogCaptureFixture) -> None:
    manager = MadeUpManager()
    manager.refusal = AccessDenied("not you")
    push = PushNew(manager, lambda: True, lambda: False)
    with caplog.at_level(logging.WARNING):
        push.start()
        await settled(push)
    assert "not you" in caplog.text
