# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's events about one device or module, such as a module that was loaded or unloaded."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..system.tasks import in_thread

if TYPE_CHECKING:
    from pyudev import Monitor

log = logging.getLogger(__name__)

# Events that are read at a time, so that other tasks run between thousands of them.
_AT_ONCE = 64
# An overflow is one error; a socket that does not work any more has only errors.
_ERRORS = 16


class Uevents:
    """Calls back when the kernel sends an event about one device or module.

    The content of an event is not used: it may be outdated, and after an overflow of the socket's buffer,
    events are lost. One call can stand for many events.

    The events come from the kernel and not from udevd: that works without udevd, is faster, and needs no
    privileges (netlink(7), NETLINK_KOBJECT_UEVENT).
    """

    def __init__(self, subsystem: str, name: str, on_event: Callable[[], None]) -> None:
        """
        Args:
            subsystem: such as "module".
            name: of the device or module in the subsystem.
            on_event: called on the event loop; must be quick.
        """
        self._subsystem = subsystem
        self._name = name
        self._on_event = on_event
        self._monitor: Monitor | None = None
        self._errors = 0

    async def start(self) -> None:
        """Begin to listen.

        Raises:
            ImportError: pyudev or libudev is not there.
            OSError: there is no netlink here.
        """
        self._monitor = await in_thread(_open_monitor, self._subsystem)
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._readable)

    def close(self) -> None:
        """Stop listening. May be called twice, and before `start`."""
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor = None  # with which libudev closes the socket

    def _readable(self) -> None:
        monitor = self._monitor
        if monitor is None:
            return
        concerned = False
        try:
            for _ in range(_AT_ONCE):
                device = monitor.poll(0)
                self._errors = 0
                if device is None:
                    break
                concerned = concerned or device.sys_name == self._name
        except OSError as error:
            # Events were lost. The socket reports that until its error is read, and pyudev never reads it.
            concerned = True
            self._errors += 1
            lost = _clear_error(monitor.fileno())
            if self._errors > _ERRORS:
                log.warning("the kernel's events cannot be received any more: %s", error)
                self.close()
            else:
                log.debug("events of the kernel were lost: %s", os.strerror(lost) if lost else error)
        if concerned:
            self._on_event()


def _open_monitor(subsystem: str) -> Monitor:
    """Blocking, for some 20 ms: finding libudev runs ldconfig."""
    import pyudev

    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    monitor.filter_by(subsystem)
    monitor.start()
    return monitor


def _clear_error(descriptor: int) -> int:
    """Read, and thereby clear, a socket's error (SO_ERROR in socket(7))."""
    with socket.socket(fileno=os.dup(descriptor)) as same:
        return same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
