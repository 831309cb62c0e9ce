# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells the service manager the daemon's state, without waiting (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from .printable import encodable

log = logging.getLogger(__name__)

# The queue of the service manager has room for some ten datagrams of all services (net.unix.max_dgram_qlen).
_AGAIN = 0.1


class ServiceManager:
    """Sends messages to ``$NOTIFY_SOCKET``; does nothing where that is not set.

    A message for which the service manager has no room is sent again soon, unless a newer one of the same
    kind has replaced it.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        """
        Args:
            environment: variables for the daemon alone are removed from it: its children do not get them.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feeding = _watchdog_interval(environment) / 2
        self._socket: socket.socket | None = None
        self._pending: dict[str, str] = {}
        self._timers: dict[Callable[[], None], asyncio.TimerHandle] = {}
        self._ready = False
        self._refused = False
        self._status = ""

    def start(self) -> None:
        """Feed the watchdog from now on, on the event loop: if that hangs, the watchdog is not fed."""
        if self._address:
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            )
        if self._feeding:
            self._feed()

    def close(self) -> None:
        """Send no more messages. May be called twice."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ready(self) -> None:
        """Tell that the daemon serves."""
        self._ready = True
        self._send("ready", "READY=1")

    def reloading(self) -> None:
        """Tell that the daemon reads its configuration again, until `reloaded`."""
        if self._ready:
            self._send("reloading", f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """Tell that the configuration was read again."""
        if self._ready:
            self._send("ready", "READY=1")

    def stopping(self) -> None:
        """Tell that the daemon ends."""
        self._ready = False
        self._send("stopping", "STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        if text != self._status:
            self._status = text
            self._send("status", f"STATUS={text}")

    def _feed(self) -> None:
        self._send("watchdog", "WATCHDOG=1")
        self._after(self._feeding, self._feed)

    def _send(self, kind: str, message: str) -> None:
        self._pending.pop(kind, None)  # the newer one comes after all others
        self._pending[kind] = message
        self._flush()

    def _flush(self) -> None:
        while self._pending and self._socket is not None:
            kind = next(iter(self._pending))
            try:
                self._socket.sendto(encodable(self._pending[kind]).encode(), self._address)
            except BlockingIOError:
                self._after(_AGAIN, self._flush)
                return
            except OSError as error:
                level = logging.DEBUG if self._refused else logging.WARNING
                self._refused = True  # one warning is enough
                log.log(level, "the service manager could not be told %s: %s", self._pending[kind], error)
            del self._pending[kind]

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        if (timer := self._timers.get(what)) is not None:
            timer.cancel()
        self._timers[what] = asyncio.get_running_loop().call_later(seconds, what)


def _watchdog_interval(environment: MutableMapping[str, str]) -> float:
    """Seconds within which the service manager expects a message; 0 if it expects none."""
    pid, interval = environment.pop("WATCHDOG_PID", ""), environment.pop("WATCHDOG_USEC", "")
    if pid and pid != str(os.getpid()):
        return 0.0
    if not (interval.isascii() and interval.isdigit()):
        return 0.0
    return int(interval) / 1e6
