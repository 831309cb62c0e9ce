"""Signals: what happens together is told together, and nothing is told on no bus."""

from __future__ import annotations

from typing import Any, cast

import pytest

from kheadersd.daemon import signals as module
from kheadersd.daemon.signals import Signals
from kheadersd.dbus.objects import Interface, Property
from kheadersd.release import Release
from tests.support.clients import eventually


class Recorder:
    """A connection that keeps what is emitted."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, Any]] = []

    def emit(self, path: str, interface: str, member: str, signature: str, values: Any) -> None:  # noqa: ARG002
        self.emitted.append((member, values))

    def properties_changed(self, path: str, interface: str, names: list[str]) -> None:  # noqa: ARG002
        self.emitted.append(("PropertiesChanged", names))


class Rig:
    def __init__(self) -> None:
        self.values = {"Version": 1, "EntryCount": 0, "Activity": "idle"}
        self.outdated = 0
        self.bus = Recorder()
        self.signals = Signals(self._forget)
        properties = {
            "Version": Property("u", lambda: self.values["Version"], emits="const"),
            "EntryCount": Property("u", lambda: self.values["EntryCount"]),
            "Activity": Property("s", lambda: self.values["Activity"]),
        }
        self._interface = Interface("x.y", {}, properties, "")

    def attach(self) -> None:
        self.signals.attach(cast("Any", self.bus), self._interface, cast("Any", None))

    def _forget(self) -> None:
        self.outdated += 1


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_changes_of_one_moment_are_one_signal(rig: Rig) -> None:
    rig.attach()
    rig.values |= {"EntryCount": 1, "Version": 2}
    rig.signals.changed()
    rig.values["Activity"] = "extract"
    rig.signals.changed()
    assert rig.outdated == 2, "answers are outdated at once"
    await eventually(lambda: bool(rig.bus.emitted))
    assert rig.bus.emitted == [("PropertiesChanged", ["EntryCount", "Activity"])]


async def test_what_is_back_to_what_it_was_is_not_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SETTLE", 0.0)
    rig.attach()
    rig.values["EntryCount"] = 1
    rig.signals.changed()
    rig.values["EntryCount"] = 0
    await eventually(lambda: cast("Any", rig.signals)._timer is None)
    assert rig.bus.emitted == []


async def test_nothing_is_told_without_a_connection(rig: Rig) -> None:
    rig.signals.progress(Release("6.1.0"), "extract", 0.5)
    rig.attach()
    rig.values["EntryCount"] = 1
    rig.signals.changed()
    rig.signals.detach()
    assert cast("Any", rig.signals)._timer is None
    rig.signals.progress(Release("6.1.0"), "extract", 0.6)
    rig.attach()
    rig.signals.progress(Release("6.1.0"), "extract", 0.7)
    assert rig.bus.emitted == [("Progress", ["6.1.0", "extract", 0.7])]
