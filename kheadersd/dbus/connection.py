# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection to a message bus, for the daemon and for the command alike."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import LimitsExceeded, Timeout
from ..names import BUS_NAME, BUS_PATH, PROPERTIES
from ..system.tasks import within
from . import frames as wire
from .authentication import connect
from .codec import decode, encode, encode_exactly
from .credentials import Callers
from .dispatch import Dispatcher
from .errors import BusError, ConnectionLost, NameTaken
from .objects import Answer
from .standard_interfaces import changed
from .transport import SERVICE_MESSAGE, Message, Stream, close_descriptors

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from .credentials import Credentials
    from .objects import Interface

log = logging.getLogger(__name__)

_DO_NOT_QUEUE = 4
_PRIMARY_OWNER, _ALREADY_OWNER = 1, 4
_LAST_WORDS = 1.0  # seconds that closing waits for a full socket


class Signal(NamedTuple):
    """A signal that has come in. Any program can send one to this connection alone: check the sender."""

    sender: str
    path: str
    interface: str
    member: str
    args: list[Any]


class _Pending(NamedTuple):
    answer: asyncio.Future[Message]
    destination: str
    accept_fds: bool


class _Subscriber(NamedTuple):
    callback: Callable[[Signal], None]
    interface: str
    member: str


class Connection:
    """A connection to a bus. Made by `open`; must be closed."""

    def __init__(self, connected: socket.socket, *, max_message: int, is_shared: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._unique_name = ""
        self._serial = 0
        self._pending: dict[int, _Pending] = {}
        self._subscribers: list[_Subscriber] = []
        self._closing = False
        self._closed: asyncio.Future[str] = self._loop.create_future()
        self._stream = Stream(self._loop, connected, self, max_message=max_message)
        self._dispatcher = Dispatcher(self, self._stream.send, self._next_serial, self.known_user)
        self._callers = Callers(self._ask_bus, is_shared=is_shared)

    @classmethod
    async def open(
        cls,
        address: str,
        *,
        timeout: float = 10.0,  # noqa: ASYNC109 - the error names what did not answer
        max_message: int = SERVICE_MESSAGE,
        is_shared: bool = False,
    ) -> Connection:
        """Connect, authenticate and say Hello.

        Args:
            address: a D-Bus address; the first of it that answers is taken.
            timeout: seconds for all of this.
            max_message: bytes of the largest message that is read. A larger call is refused with
                LimitsExceeded, a larger answer fails the call so.
            is_shared: whether containers share the bus, see `of_shared_bus`.

        Raises:
            ConnectionLost: there is no bus, or it refuses the connection.
            Timeout: it is there and says nothing.
        """

        def late() -> Timeout:
            return Timeout(f"the bus at {address} did not answer within {timeout:g} seconds")

        try:
            return await within(timeout, cls._open(address, max_message, is_shared=is_shared), late)
        except BusError as error:
            raise ConnectionLost(f"the bus at {address} refused the connection: {error.message}") from error

    @classmethod
    async def _open(cls, address: str, max_message: int, *, is_shared: bool) -> Connection:
        connection = cls(await connect(address), max_message=max_message, is_shared=is_shared)
        try:
            (connection._unique_name,) = await connection._ask_bus("Hello")
        except BaseException:
            connection._abandon()
            raise
        return connection

    @property
    def unique_name(self) -> str:
        """The name of this connection on the bus, such as ``:1.42``."""
        return self._unique_name

    @property
    def portion(self) -> int:
        """As `Stream.portion`."""
        return self._stream.portion

    @property
    def closed(self) -> asyncio.Future[str]:
        """Await it to learn of the end of the connection: its result is the reason, "" after `close`."""
        return asyncio.shield(self._closed)

    async def close(self) -> None:
        """End the connection: calls in flight are cancelled and answered so, what was sent leaves if it can.

        Not to be awaited by a method's own task. Closing again does nothing.
        """
        try:
            await self.end_calls()
            async with asyncio.timeout(_LAST_WORDS):
                await self._stream.drain()
        except TimeoutError:
            log.info("closed the connection to the bus with messages unsent: it did not take them")
        finally:
            self._abandon()
            await self._callers.stop()

    async def end_calls(self) -> None:
        """Take no more calls, and cancel those in flight. Other programs can still be called.

        Not to be awaited by a method's own task.
        """
        self._closing = True
        await self._dispatcher.in_flight.stop()

    def export(self, path: str, interfaces: Sequence[Interface]) -> None:
        """Add interfaces to the object at a path."""
        self._dispatcher.objects.export(path, interfaces)

    def properties_changed(self, path: str, interface: str, names: Sequence[str]) -> None:
        """Announce the present values of some properties of an exported interface, in one signal."""
        known = self._dispatcher.objects.interfaces(path)[interface]
        values = changed(known, list(names))
        if values[1] or values[2]:
            self.emit(path, PROPERTIES, "PropertiesChanged", "sa{sv}as", values)

    def emit(
        self, path: str, interface: str, member: str, signature: str = "", values: Sequence[Any] = ()
    ) -> None:
        """Send a signal to all listeners. Nothing happens when the connection is gone.

        Raises:
            ValueError: the values are not of this signature.
        """
        fields = wire.Fields(path=path, interface=interface, member=member, signature=signature)
        self._stream.send(wire.signal(self._next_serial(), fields, encode(signature, values)))

    async def call(  # noqa: PLR0913 - what a D-Bus call is made of
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        timeout: float = 25.0,  # noqa: ASYNC109 - the error names what did not answer
        allow_interactive: bool = False,
        accept_fds: bool = False,
    ) -> Answer:
        """Call a method and wait for its answer.

        Args:
            timeout: seconds; infinity waits for ever.
            allow_interactive: the user may be asked for a password.
            accept_fds: keep the descriptors of the answer, which are then the caller's to close.

        Raises:
            BusError: the other side answered with an error.
            Timeout: there was no answer in time.
            ConnectionLost: the connection is gone, or went before the answer came.
            LimitsExceeded: the answer is larger than what this connection reads.
            ValueError: the values are not of this signature, or the answer is not of its own.
        """

        def late() -> Timeout:
            return Timeout(f"{destination} did not answer {member} within {timeout:g} seconds")

        self._check_open()
        flags = wire.ALLOW_INTERACTIVE_AUTHORIZATION if allow_interactive else 0
        fields = wire.Fields(
            path=path, interface=interface, member=member, destination=destination, signature=signature
        )
        body = encode_exactly(signature, values)
        serial = self._next_serial()
        pending = _Pending(self._loop.create_future(), destination, accept_fds)
        self._pending[serial] = pending
        try:
            self._stream.send(wire.method_call(serial, fields, body, flags))
            message = await within(None if timeout == float("inf") else timeout, pending.answer, late)
        except BaseException:
            _discard(pending.answer)
            raise
        finally:
            del self._pending[serial]
        try:
            return _answer(message)
        except BaseException:
            close_descriptors(message.descriptors)
            raise

    async def request_name(self, name: str) -> None:
        """Take a name on the bus. From then on callers that vanish are noticed, too.

        Raises:
            NameTaken: another program has it.
            BusError: the bus does not allow it.
            Timeout, ConnectionLost: the bus does not answer.
        """
        await self._callers.watch()
        (result,) = await self._ask_bus("RequestName", "su", (name, _DO_NOT_QUEUE))
        if result not in (_PRIMARY_OWNER, _ALREADY_OWNER):
            raise NameTaken(f"the name {name} is taken on this bus: is the service running already?")

    async def add_match(self, rule: str) -> None:
        """Ask the bus for the signals that a match rule describes; `on_signal` gets them."""
        await self._ask_bus("AddMatch", "s", (rule,))

    def on_signal(
        self, callback: Callable[[Signal], None], *, interface: str = "", member: str = ""
    ) -> Callable[[], None]:
        """Call back for each signal, of an interface or member if given; returns a function that ends that.

        The callback must not block. Check `Signal.sender`.
        """
        subscriber = _Subscriber(callback, interface, member)
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    async def credentials(self, sender: str) -> Credentials:
        """The credentials of a unique name. Remembered until the name vanishes.

        Raises:
            AccessDenied: there is no such connection any more.
            Timeout, ConnectionLost: the bus does not answer.
        """
        self._check_open()
        return await self._callers.credentials(sender)

    async def _ask_bus(self, member: str, signature: str = "", values: Sequence[Any] = ()) -> list[Any]:
        answer = await self.call(BUS_NAME, BUS_PATH, BUS_NAME, member, signature, values)
        return answer.values

    def known_user(self, sender: str) -> int | None:
        """The uid behind a name, if it was looked up already and is still on the bus."""
        return self._callers.user(sender)

    def _next_serial(self) -> int:
        self._serial = self._serial % 0xFFFF_FFFF + 1
        return self._serial

    def _check_open(self) -> None:
        if not self._stream.is_open:
            raise ConnectionLost(self._lost_message())

    def _lost_message(self) -> str:
        reason = self._closed.result() if self._closed.done() else ""
        return f"the connection to the bus is gone: {reason or 'it was closed'}"

    # What the stream reports

    def message_received(self, message: Message) -> None:
        """For the stream."""
        if message.kind in (wire.METHOD_RETURN, wire.ERROR):
            self._settle(message)
            return
        # No call or signal that is handled here has descriptors.
        close_descriptors(message.descriptors)
        message.descriptors = ()
        if message.kind == wire.SIGNAL:
            self._on_signal(message)
        elif not self._closing:
            self._dispatcher.handle(message)

    def message_refused(self, message: Message) -> None:
        """For the stream."""
        if message.kind == wire.METHOD_CALL:
            self._dispatcher.refuse(message)
        elif message.kind in (wire.METHOD_RETURN, wire.ERROR):
            pending = self._pending_for(message)
            if pending is not None:
                reason = f"the answer of {pending.destination} is larger than this connection reads"
                pending.answer.set_exception(LimitsExceeded(reason))

    def stream_lost(self, reason: str) -> None:
        """For the stream."""
        self._end(reason)

    def _settle(self, message: Message) -> None:
        pending = self._pending_for(message)
        if pending is None:
            close_descriptors(message.descriptors)
            return
        if not pending.accept_fds:
            close_descriptors(message.descriptors)
            message.descriptors = ()
        pending.answer.set_result(message)

    def _pending_for(self, message: Message) -> _Pending | None:
        """The call that a reply answers, if its sender was called: a session bus lets any program reply."""
        pending = self._pending.get(message.fields.reply_serial)
        if pending is None or pending.answer.done():
            return None
        exact = pending.destination.startswith(":") or pending.destination == BUS_NAME
        # The bus answers itself for a destination that is gone, and names the sender of all else.
        if exact and message.fields.sender not in (pending.destination, BUS_NAME, ""):
            return None
        return pending

    def _on_signal(self, message: Message) -> None:
        fields = message.fields
        vanishing = fields.sender == BUS_NAME and fields.member == "NameOwnerChanged"
        wanted = [
            subscriber
            for subscriber in self._subscribers
            if subscriber.interface in ("", fields.interface) and subscriber.member in ("", fields.member)
        ]
        if not vanishing and not wanted:
            return
        try:
            args = decode(fields.signature, message.body, big_endian=message.big_endian, once=True)
        except ValueError:
            return
        if vanishing and fields.signature == "sss" and not args[2]:
            self._callers.vanished(args[0])
            self._dispatcher.in_flight.cancel(args[0])
        signal = Signal(fields.sender, fields.path, fields.interface, fields.member, args)
        for subscriber in wanted:
            try:
                subscriber.callback(signal)
            except Exception:
                log.exception("a handler of the signal %s failed", fields.member)

    # The end

    def _abandon(self) -> None:
        """End the connection at once."""
        self._closing = True
        self._stream.close()
        self._end("")

    def _end(self, reason: str) -> None:
        if self._closed.done():
            return
        self._closed.set_result(reason)
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(ConnectionLost(self._lost_message()))
        self._dispatcher.in_flight.cancel_all()


def _answer(message: Message) -> Answer:
    """
    Raises:
        BusError: the message is an error.
        ValueError: its body is malformed.
    """
    fields = message.fields
    values = decode(fields.signature, message.body, big_endian=message.big_endian, once=True)
    if message.kind == wire.ERROR:
        text = values[0] if values and isinstance(values[0], str) else ""
        raise BusError(fields.error_name, text, fields.sender)
    return Answer(values, message.descriptors)


def _discard(answer: asyncio.Future[Message]) -> None:
    """Close the descriptors of an answer that came too late."""
    if answer.done() and not answer.cancelled() and answer.exception() is None:
        close_descriptors(answer.result().descriptors)
