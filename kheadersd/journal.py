# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the daemon logs: structured entries in the journal, or lines on stderr where there is no journal.

Logging never blocks and never fails: an entry that cannot be delivered at once goes to stderr. One that
cannot go there either is counted as lost, and the next entry has the count.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING

from .errors import InvalidArgs, KheadersError
from .events import Event
from .system.printable import encodable, printable, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
"""syslog(3)'s levels, the most important first; an entry's PRIORITY is the index."""

TARGETS = ("auto", "journal", "console", "null")
"""Where entries go, in the words of org.freedesktop.LogControl1: "auto" is the journal, and stderr for what
cannot go there."""

IDENTIFIER = "kheadersd"

_WARNING = LEVELS.index("warning")

_JOURNALD = "/run/systemd/journal/socket"
_PATIENCE = 20  # milliseconds that a busy journald is given, once
_MAX_MESSAGE = 2000  # characters
_MAX_VALUE = 1024  # characters
_MAX_TRACEBACK = 8192  # characters, of which the end is kept
_MAX_LINE = select.PIPE_BUF  # bytes: what a pipe that polls writable takes without blocking


# Events that callers cause as often as they like: `_AT_ONCE` entries about each user, then one a second.
_OF_CALLERS = frozenset(
    (
        Event.LEASE_GRANTED,
        Event.LEASE_ENDED,
        Event.REQUEST_FAILED,
        Event.REQUEST_REFUSED,
        Event.DOWNLOAD_STARTED,
    )
)
_AT_ONCE = 30
_PER_SECOND = 1.0
_LEFT_OUT_PAUSE = 10.0  # seconds after which the number left out is logged, if no later entry has it
_MAX_BUDGETS = 1000

# Faults of the host or of the daemon; all other errors are ordinary refusals.
_FAULTS = frozenset(
    ("Corrupt", "ReleaseMismatch", "NoSpace", "ModuleFailed", "CompileFailed", "Timeout", "Failed")
)


class _Budgets:
    """How many entries there may be about each user, and about each place in the code that logs."""

    def __init__(self) -> None:
        self._left: dict[object, tuple[float, float]] = {}  # entries, as of a time
        self._left_out: collections.Counter[object] = collections.Counter()

    def take(self, about: object) -> bool:
        """Whether there may be one more now; else it is counted as left out."""
        now = time.monotonic()
        left, then = self._left.get(about, (float(_AT_ONCE), now))
        left = min(left + (now - then) * _PER_SECOND, _AT_ONCE)
        if len(self._left) >= _MAX_BUDGETS:
            self._left.clear()
        if allowed := left >= 1:
            left -= 1
        else:
            self._left_out[about] += 1
        self._left[about] = (left, now)
        return allowed

    def leave_out(self, about: object) -> None:
        self._left_out[about] += 1

    def left_out(self, about: object) -> int:
        """How many were left out since this was last asked."""
        return self._left_out.pop(about, 0)

    def all_left_out(self) -> dict[object, int]:
        """The same about everything."""
        counts = dict(self._left_out)
        self._left_out.clear()
        return counts


class Journal:
    """Writes all entries of the daemon.

    Attributes:
        level: the least important level that is logged, one of `LEVELS`.
        target: one of `TARGETS`.

    Setting either to something else raises InvalidArgs.
    """

    def __init__(self, target: str = "auto", level: str = "info") -> None:
        self._stuck = False
        self._lost = 0
        self._budgets = _Budgets()
        self._left_out_timer = False
        self.target = target
        self.level = level

    @property
    def level(self) -> str:
        """The name of the least important level that is logged."""
        return LEVELS[self._level]

    @level.setter
    def level(self, name: str) -> None:
        if name not in LEVELS:
            raise InvalidArgs(f"{quoted(name, 40)} is not a log level; they are {', '.join(LEVELS)}")
        self._level = LEVELS.index(name)

    @property
    def target(self) -> str:
        """Where entries go: journal, console or auto."""
        return self._target

    @target.setter
    def target(self, name: str) -> None:
        if name not in TARGETS:
            raise InvalidArgs(f"{quoted(name, 40)} is not a log target; they are {', '.join(TARGETS)}")
        self._target = name

    def report(self, event: Event, message: str, *, level: str | None = None, **fields: object) -> None:
        """Log an event.

        Args:
            message: one sentence.
            level: instead of the event's own.
            fields: values by the lower-case name of their field without ``KHEADERS_``: release, source, path,
                digest, bytes, duration_usec, client_uid, error, and what else applies. None is left out; a
                field the event's text in the catalog names is never left out.
        """
        priority = LEVELS.index(level or event.level)
        if priority > self._level:
            return
        if event in _OF_CALLERS:
            uid = fields.get("client_uid")
            if not self._is_within_budget(uid):
                return
            if left_out := self._budgets.left_out(uid):
                message += f" ({left_out} entries about {_user(uid)} before this one were left out)"
                fields["left_out"] = left_out
        entry = {"MESSAGE_ID": event.message_id}
        for name in event.fields:
            entry["KHEADERS_" + name.upper()] = "-"
        for name, value in fields.items():
            if value is not None:
                entry["KHEADERS_" + name.upper()] = printable(str(value), _MAX_VALUE)
        self._write(priority, printable(message, _MAX_MESSAGE), entry)

    def log_left_out(self) -> None:
        """Log how many entries were left out since the last that has the count."""
        self._left_out_timer = False
        for about, count in self._budgets.all_left_out().items():
            uid = about if isinstance(about, int) else None
            what = f"of {about}" if isinstance(about, str) else f"about {_user(about)}"
            message = f"{count} entries {what} were left out"
            self.report(Event.LEFT_OUT, message, left_out=count, client_uid=uid)

    def _is_within_budget(self, about: object) -> bool:
        if self._budgets.take(about):
            return True
        self._log_left_out_later()
        return False

    def _log_left_out_later(self) -> None:
        """Log the number left out after a while, even if there is no later entry about the same."""
        with contextlib.suppress(RuntimeError):  # a thread, or a test, without an event loop
            loop = asyncio.get_running_loop()
            if not self._left_out_timer:
                self._left_out_timer = True
                loop.call_later(_LEFT_OUT_PAUSE, self.log_left_out)

    def report_failure(self, error: KheadersError, *, again: bool = False, **fields: object) -> None:
        """Log that a request failed: as an error if the host or the daemon is at fault. An ordinary refusal
        (no headers, no authorisation) is below the default level.

        Args:
            again: whether an identical failure was just logged: then this one is counted as left out.
        """
        name = error.bus_name.rpartition(".")[2]
        event = Event.REQUEST_FAILED if name in _FAULTS else Event.REQUEST_REFUSED
        if again:
            if LEVELS.index(event.level) <= self._level:
                self._budgets.leave_out(fields.get("client_uid"))
                self._log_left_out_later()
            return
        self.report(event, error.message, **{**fields, "error": error.bus_name})  # type: ignore[arg-type]

    def log(
        self, priority: int, message: str, *, traceback: str = "", fields: Mapping[str, str] | None = None
    ) -> None:
        """Log what is no event. ``priority`` is an index of `LEVELS`.

        Warnings and errors are bounded for each place in the code, as events are for each user.
        """
        if priority > self._level:
            return
        place = f"{fields['CODE_FILE']}:{fields['CODE_LINE']}" if fields and "CODE_LINE" in fields else None
        if place is not None and priority <= _WARNING:
            if not self._is_within_budget(place):
                return
            if left_out := self._budgets.left_out(place):
                message += f" ({left_out} of this place before this one were left out)"
        entry = {name: printable(value, _MAX_VALUE) for name, value in (fields or {}).items()}
        if traceback:
            entry["EXCEPTION_INFO"] = encodable(traceback[-_MAX_TRACEBACK:])
        self._write(priority, printable(message, _MAX_MESSAGE), entry)

    def _write(self, priority: int, message: str, entry: dict[str, str]) -> None:
        if self._target == "null":
            return
        if self._lost:
            entry["KHEADERS_LOST"] = str(self._lost)
            message = f"{message} ({self._lost} entries before this one were lost)"
        delivered = self._target != "console" and self._to_journal(priority, message, entry)
        if not delivered and self._target != "journal":
            delivered = _to_console(priority, message, entry)
        self._lost = 0 if delivered else self._lost + 1

    def _to_journal(self, priority: int, message: str, entry: dict[str, str]) -> bool:
        # systemd-python 235 sends on a blocking socket and keeps the interpreter's lock meanwhile, so that a
        # stopped journald would stop every thread: whether there is room is asked first. (Another program
        # can take the last place in between; then the daemon waits until a living journald makes room.)
        room = _room(0 if self._stuck else _PATIENCE)
        self._stuck = room is False
        if not room:
            return False
        from systemd import journal

        try:
            journal.sendv(
                f"MESSAGE={message}",
                f"PRIORITY={priority}",
                f"SYSLOG_IDENTIFIER={IDENTIFIER}",
                *(f"{name}={value}" for name, value in entry.items()),
            )
        except OSError:  # journald went away just now
            return False
        return True


def _room(patience: int) -> bool | None:
    """Whether journald has room within ``patience`` milliseconds; None where there is no journald."""
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    ) as probe:
        try:
            probe.connect(_JOURNALD)
        except OSError:
            return None
        poll = select.poll()
        poll.register(probe, select.POLLOUT)
        return any(state & select.POLLOUT for _, state in poll.poll(patience))


def _to_console(priority: int, message: str, entry: Mapping[str, str]) -> bool:
    """Write to stderr if that takes it at once: the reader of a pipe may have stopped reading."""
    if sys.__stderr__ is None:  # closed from the start: descriptor 2 may be anything by now
        return False
    text = f"{IDENTIFIER}: {LEVELS[priority]}: {message}"
    if details := entry.get("EXCEPTION_INFO"):
        text += "\n" + details[-(_MAX_LINE // 2) :].rstrip("\n")
    try:
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if not any(state & select.POLLOUT for _, state in poll.poll(0)):
            return False
        os.write(2, text.encode()[: _MAX_LINE - 1].decode("utf-8", "ignore").encode() + b"\n")
    except OSError:
        return False
    return True


def _user(uid: object) -> str:
    return "callers who have left" if uid is None else f"user {uid}"


class Handler(logging.Handler):
    """Takes what the modules log to a `Journal`, with their place and a bounded traceback."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record of the standard library's logging."""
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - whatever a wrong format or a __str__ raises
            message = f"{record.msg!r} could not be formatted: {error!r}"
        traceback = ""
        if record.exc_info:
            traceback = (self.formatter or logging.Formatter()).formatException(record.exc_info)
        fields = {
            "LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName or "-",
        }
        self._journal.log(_priority(record.levelno), message, traceback=traceback, fields=fields)


def _priority(levelno: int) -> int:
    for threshold, name in (
        (logging.CRITICAL, "crit"),
        (logging.ERROR, "err"),
        (logging.WARNING, "warning"),
        (logging.INFO, "info"),
    ):
        if levelno >= threshold:
            return LEVELS.index(name)
    return LEVELS.index("debug")
