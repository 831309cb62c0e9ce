"""What an error of the bus means for the exit code and the hint."""

from __future__ import annotations

import pytest

from kheadersd import errors
from kheadersd.cli.client import plain
from kheadersd.cli.failures import (
    FAILED,
    NO_DAEMON,
    NOT_AUTHORISED,
    NOT_AVAILABLE,
    USAGE,
    explain,
)
from kheadersd.dbus.codec import Variant
from kheadersd.dbus.errors import BusError


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (errors.NotAvailable.bus_name, NOT_AVAILABLE),
        (errors.NotCached.bus_name, NOT_AVAILABLE),
        (errors.UnknownProfile.bus_name, USAGE),
        (errors.InvalidArgs.bus_name, USAGE),
        (errors.AccessDenied.bus_name, NOT_AUTHORISED),
        (errors.InteractiveAuthorizationRequired.bus_name, NOT_AUTHORISED),
        (errors.NoSpace.bus_name, FAILED),
        ("org.freedesktop.DBus.Error.ServiceUnknown", NO_DAEMON),
        ("org.freedesktop.DBus.Error.Spawn.ExecFailed", NO_DAEMON),
        ("org.freedesktop.systemd1.LoadFailed", NO_DAEMON),
        ("com.example.Other", FAILED),
    ],
)
def test_exit_codes(name: str, code: int) -> None:
    assert explain(BusError(name, "why"), "GetHeaders", "start it").code == code


def test_a_hint_only_where_it_helps() -> None:
    in_use = BusError(errors.InUse.bus_name, "leased")
    assert "--force" in explain(in_use, "Remove", "").hint
    assert explain(in_use, "UnloadModule", "").hint == ""
    full = BusError(errors.NoSpace.bus_name, "full")
    assert "prune" in explain(full, "GetTypes", "").hint


def test_no_hint_where_the_daemon_gives_advice() -> None:
    nothing = "no source has headers for 6.1: tree: none"
    missing = BusError(errors.NotAvailable.bus_name, nothing)
    assert "headers package" in explain(missing, "GetHeaders", "").hint
    advised = BusError(
        errors.NotAvailable.bus_name, f"{nothing}; to have them: 'dnf install kernel-devel-6.1'"
    )
    assert explain(advised, "GetHeaders", "").hint == ""


def test_how_to_start_the_daemon() -> None:
    gone = BusError("org.freedesktop.DBus.Error.NoReply", "it left")
    assert explain(gone, "GetHeaders", "start it").hint == "start it"


def test_an_error_without_a_message_has_its_name() -> None:
    assert explain(BusError("com.example.Other", ""), "Prune", "").message == "com.example.Other"


def test_values_without_variants() -> None:
    value = {"a": Variant("as", ["x"]), "b": [Variant("(ss)", ["x", "y"])]}
    assert plain(value) == {"a": ["x"], "b": [["x", "y"]]}
