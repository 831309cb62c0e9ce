# SPDX-License-Identifier: LGPL-2.1-or-later
"""`org.freedesktop.LogControl1`: lets ``systemctl service-log-level`` and its siblings work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dbus.objects import Interface, Property, interface_xml
from ..journal import IDENTIFIER

if TYPE_CHECKING:
    from ..dbus.objects import Call
    from ..journal import Journal
    from .polkit import Authority

PATH = "/org/freedesktop/LogControl1"
NAME = "org.freedesktop.LogControl1"


def log_control(journal: Journal, authority: Authority) -> Interface:
    """The interface over a journal. All users may read; only root may write."""

    async def set_level(call: Call, value: object) -> None:
        await authority.require_root(call, "set the log level")
        journal.level = str(value)

    async def set_target(call: Call, value: object) -> None:
        await authority.require_root(call, "set the log target")
        journal.target = str(value)

    properties = {
        "LogLevel": Property("s", lambda: journal.level, set_level, emits="false"),
        "LogTarget": Property("s", lambda: journal.target, set_target, emits="false"),
        "SyslogIdentifier": Property("s", lambda: IDENTIFIER, emits="false"),
    }
    return Interface(NAME, {}, properties, interface_xml(NAME))
