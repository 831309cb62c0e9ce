# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a method call to exactly one reply."""

from __future__ import annotations

import asyncio
import collections
import logging
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ..errors import FREEDESKTOP_ERRORS, InvalidArgs, KheadersError, LimitsExceeded
from . import frames as wire
from .call_limits import CallsInFlight
from .codec import decode, encode
from .objects import Call, Method, Objects, Reply, Result
from .standard_interfaces import add_standard_interfaces
from .transport import close_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .objects import Peer
    from .transport import Message

log = logging.getLogger(__name__)

_MAX_BODY = 31 << 20  # a message of more than 32 MiB makes a default system bus end the connection
# For calls that want no answer: how long is remembered what they do, how many that do nothing, and how many
# that take time are begun meanwhile for a sender.
_UNHEARD_SECONDS = 1.0
_MAX_IDLE = 1024
_MAX_BEGUN = 64
_MAX_KEY = 512  # bytes of a body: hostile ones are not kept
_NO_REPLY = FREEDESKTOP_ERRORS + "NoReply"
_FAILED = FREEDESKTOP_ERRORS + "Failed"


class Dispatcher:
    """Finds the method of each call, runs it and answers.

    Attributes:
        objects: what is exported.
        in_flight: the calls that have become tasks.
    """

    def __init__(
        self,
        connection: Peer,
        send: Callable[[bytes, Sequence[int]], None],
        next_serial: Callable[[], int],
        known_user: Callable[[str], int | None],
    ) -> None:
        self.objects = Objects()
        add_standard_interfaces(self.objects)
        self.in_flight = CallsInFlight(self._identify)
        self._connection = connection
        self._send = send
        self._next_serial = next_serial
        self._known_user = known_user
        # Of calls that want no answer: the hashes of those that do nothing else (their bodies would take 16
        # MiB), and how many were begun for each sender.
        self._idle: set[int] = set()
        self._begun: collections.Counter[str] = collections.Counter()
        self._unheard_until = 0.0

    def handle(self, message: Message) -> None:
        """Answer a call, at once or by a task. Never raises."""
        try:
            fields = message.fields
            method = self.objects.find(fields.path, fields.interface, fields.member)
            if message.flags & wire.NO_REPLY_EXPECTED:
                self._handle_unheard(message, method)
                return
            result = method.handler(self._call(message, method))
            if type(result) is not Reply and isinstance(result, Awaitable):
                self._start(message, method, result)
            else:
                self._answer(message, method, result)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - reported to the caller and the log
            self._fail(message, error)

    def _handle_unheard(self, message: Message, method: Method) -> None:
        """Do what a call is for that wants no answer; nothing if all it would do is to be answered.

        Of identical calls of a method that reads at once, the first in each second is handled, which shows
        whether it takes time. Of calls that take time, `_MAX_BEGUN` of a sender are begun in each second. The
        others are dropped.
        """
        if method.only_reads:
            return
        now = time.monotonic()
        if now > self._unheard_until:
            self._idle.clear()
            self._begun.clear()
            self._unheard_until = now + _UNHEARD_SECONDS
        sender = message.fields.sender
        call = hash((message.fields, message.body))
        if call in self._idle or self._begun[sender] >= _MAX_BEGUN:
            return
        result = None
        try:
            result = method.handler(self._call(message, method))
        finally:
            if method.reads_at_once and not isinstance(result, Awaitable) and len(self._idle) < _MAX_IDLE:
                self._idle.add(call)
        if type(result) is not Reply and isinstance(result, Awaitable):
            self._begun[sender] += 1
            self._start(message, method, result)
        else:
            self._answer(message, method, result)

    def refuse(self, message: Message) -> None:
        """Answer a call whose body was too large to be read."""
        self._fail(message, LimitsExceeded("the message is larger than any that this service takes"))

    def _call(self, message: Message, method: Method) -> Call:
        fields = message.fields
        if fields.signature != method.in_signature:
            raise InvalidArgs(
                f"{fields.member} takes arguments '{method.in_signature}', not '{fields.signature}'"
            )
        try:
            args = decode(fields.signature, message.body, big_endian=message.big_endian)
        except ValueError as error:
            raise InvalidArgs(f"the arguments of {fields.member} are malformed: {error}") from error
        return Call(
            fields.sender,
            fields.path,
            fields.interface,
            fields.member,
            args,
            allow_interactive=bool(message.flags & wire.ALLOW_INTERACTIVE_AUTHORIZATION),
            connection=self._connection,
            key=_key(message),
        )

    def _start(self, message: Message, method: Method, work: Awaitable[Result]) -> None:
        # Cancelling a call must not cancel a future that its handler shares with others.
        coroutine = work if asyncio.iscoroutine(work) else _wait_for(work)
        sender = message.fields.sender
        uid = self._known_user(sender)
        try:
            self.in_flight.check(sender, uid, unheard=bool(message.flags & wire.NO_REPLY_EXPECTED))
        except LimitsExceeded:
            coroutine.close()
            raise
        task = self.in_flight.start(sender, uid, coroutine)
        task.add_done_callback(lambda done: self._finish(message, method, done))

    async def _identify(self, sender: str) -> int:
        return (await self._connection.credentials(sender)).uid

    def _finish(self, message: Message, method: Method, done: asyncio.Task[Result]) -> None:
        try:
            self._answer(message, method, done.result())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - reported to the caller and the log
            self._fail(message, error)

    def _answer(self, message: Message, method: Method, result: Result) -> None:
        descriptors: Sequence[int] = result.fds if type(result) is Reply else ()
        try:
            frame = self._frame(message, method, result)
        except BaseException:
            close_descriptors(descriptors)
            raise
        if frame:
            self._send(frame, descriptors)
        else:
            close_descriptors(descriptors)

    def _frame(self, message: Message, method: Method, result: Result) -> bytes:
        """The frame of an answer, empty where none is wanted."""
        if message.flags & wire.NO_REPLY_EXPECTED:
            return b""
        if type(result) is Reply:
            body, count = result.body, len(result.fds)
        else:
            body, count = encode(method.out_signature, result or ()), 0  # type: ignore[arg-type]
        if len(body) > _MAX_BODY:
            raise LimitsExceeded(f"the answer of {len(body)} bytes is larger than the bus would carry")
        serial, sender = self._next_serial(), message.fields.sender
        return wire.method_return(serial, message.serial, sender, method.out_signature, body, count)

    def _fail(self, message: Message, error: BaseException) -> None:
        if isinstance(error, KheadersError):
            name, text = error.bus_name, error.message
        elif isinstance(error, asyncio.CancelledError):
            name, text = _NO_REPLY, "the call was cancelled before it was answered"
        else:
            name, text = _FAILED, "internal error, see the journal"
            fields = message.fields
            log.error("%s of %s failed unexpectedly", fields.member, fields.path, exc_info=error)
        if not message.flags & wire.NO_REPLY_EXPECTED:
            frame = wire.error(self._next_serial(), message.serial, message.fields.sender, name, text)
            self._send(frame, ())


def _key(message: Message) -> tuple[str, bytes, bool] | None:
    """As `Call.key`."""
    if len(message.body) > _MAX_KEY:
        return None
    return message.fields.member, message.body, message.big_endian


async def _wait_for(work: Awaitable[Result]) -> Result:
    return await (asyncio.shield(work) if isinstance(work, asyncio.Future) else work)
