"""Addresses of buses."""

from __future__ import annotations

from typing import Any

import pytest

from kheadersd.dbus.address import parse_address, session_bus_address, system_bus_address


def test_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert parse_address("unix:path=/a%20b,guid=1;unix:abstract=x") == [
        ("unix", {"path": "/a b", "guid": "1"}),
        ("unix", {"abstract": "x"}),
    ]
    for nonsense in ("", "nonsense", "unix:path", "unix:path=/a b", "unix:path=%2", "unix:path=/~x"):
        with pytest.raises(ValueError, match="not a D-Bus address"):
            parse_address(nonsense)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/x")
    assert system_bus_address() == "unix:path=/x"
    monkeypatch.delenv("DBUS_SYSTEM_BUS_ADDRESS")
    assert system_bus_address() == "unix:path=/run/dbus/system_bus_socket"
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "a b"))
    with pytest.raises(ValueError, match="no session bus"):
        session_bus_address()
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "bus").touch()
    address = parse_address(session_bus_address())
    assert address == [("unix", {"path": str(tmp_path / "a b" / "bus")})]
