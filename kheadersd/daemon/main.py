# SPDX-License-Identifier: LGPL-2.1-or-later
"""The program: reads its arguments and configuration, serves on the bus, and ends cleanly."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__, config
from ..dbus.address import session_bus_address, system_bus_address
from ..dbus.connection import Connection
from ..dbus.errors import BusError, ConnectionLost
from ..errors import FREEDESKTOP_ERRORS, KheadersError, Timeout
from ..events import Event
from ..host.host import Host
from ..journal import LEVELS, Handler, Journal
from ..names import SERVICE, SERVICE_PATH
from ..system import malloc as memory
from ..system.service_manager import ServiceManager
from ..system.tasks import Background, hanging, in_thread, stop_within
from . import log_control as logcontrol
from .answers import Answers
from .arguments import cache_directory, parse_arguments, root_directory
from .interface import Service
from .loader import choose_loader
from .metrics_file import MetricsFile
from .metrics_text import metrics_text
from .observer import StatusUpdates
from .parts import Parts
from .polkit import Authority
from .push_new import PushNew
from .signals import Signals
from .status import summary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from ..dbus.objects import Answer
    from ..system.disk import Lost

log = logging.getLogger(__name__)

T = TypeVar("T")

# Seconds after SIGTERM: until threads that do not end are given up, until work is, and until the process ends
# whatever hangs.
_STOP_THREADS, _STOP_WORK, _STOP_PROCESS = 1.5, 3.0, 4.2
_LAST_ANSWERS = 0.5
"""Seconds for which callers are still told why the daemon ends of itself."""
_FIRST_CONNECT = 10.0
"""Seconds for which the bus may be missing at start."""
_PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds between attempts to find the bus again; the last is repeated."""
# A descriptor for each lease, and some for the work.
_SPARE_DESCRIPTORS = 512
_FIXED = ("Directory=", "Directories=", "SharedBus=", "WithoutPolkit=", "Loader=")
"""Settings that are only looked at when the daemon starts."""


def main() -> None:
    """Run until SIGTERM or SIGINT; exit status 0 then, 1 if it could not start or go on."""
    arguments = parse_arguments()
    os.umask(0o022)
    memory.keep_little()
    settings, problems = _load_config(arguments)
    journal = Journal(
        target="console" if sys.stderr is not None and sys.stderr.isatty() else "auto",
        level="debug" if arguments.debug else settings.log_level,
    )
    logging.basicConfig(handlers=[Handler(journal)], level=logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    _tell_problems(journal, problems)
    status = 0
    try:
        asyncio.run(_Daemon(arguments, settings, journal).run())
    except KheadersError as error:
        journal.report(Event.FAILED, f"kheadersd cannot run: {error.message}", error=error.bus_name)
        status = 1
    if hanging():  # the interpreter must not wait for what such a thread holds
        os._exit(status)
    sys.exit(status)


def _end_late(journal: Journal, loop: asyncio.AbstractEventLoop, status: int) -> None:
    """End the process if it has not ended in time, and log what hangs. Runs in a thread of its own."""
    time.sleep(_STOP_PROCESS)
    with contextlib.suppress(Exception):  # the event loop may be changing what is looked at
        tasks = ", ".join(sorted(_name(task) for task in asyncio.all_tasks(loop))) or "no task"
        journal.log(
            LEVELS.index("warning"), f"kheadersd ends although work is left that does not end: {tasks}"
        )
    os._exit(status)


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


def _load_config(arguments: argparse.Namespace) -> tuple[config.Config, Sequence[config.Problem]]:
    if arguments.config is not None:
        return config.load(arguments.config, (), required=True)
    return config.load()


def _tell_problems(journal: Journal, problems: Sequence[config.Problem]) -> None:
    for problem in problems:
        journal.report(Event.CONFIG_PROBLEM, str(problem), path=str(problem.file))


class _Daemon:
    """One run of the program."""

    def __init__(self, arguments: argparse.Namespace, settings: config.Config, journal: Journal) -> None:
        self._arguments = arguments
        self._session = arguments.session
        self._settings = settings
        self._shared_bus = settings.shared_bus
        self._journal = journal
        self._host = Host(root_directory(arguments))
        self._cache_directory = cache_directory(arguments, settings.cache_directory)
        self._connection: Connection | None = None
        # On a bus that containers share, an administrator comes to the daemon as the daemon's own user.
        is_own = self._session or settings.shared_bus
        self._authority = Authority(
            trusted_uid=os.getuid() if is_own else None,
            without_polkit=settings.without_polkit,
            asks_polkit=not settings.shared_bus,
        )
        self._stop = asyncio.Event()
        self._stop_by: float | None = None
        self._lost: Lost | None = None
        self._hangup = asyncio.Event()
        self._manager = ServiceManager()
        self._has_started = False

    async def run(self) -> None:
        """Serve until told to stop.

        Raises:
            KheadersError: it could not start, or go on.
        """
        self._bus_address()  # without a session bus, a trial ends before it opens a cache
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, loop)
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        _allow_descriptors(self._settings.max_leases + _SPARE_DESCRIPTORS)
        answers = Answers()
        status = StatusUpdates(lambda: self._manager.status(summary(parts)))
        push_new = PushNew(self, self._wants_push, lambda: self._settings.push_new_pchs)
        metrics_file = MetricsFile(lambda: metrics_text(parts), self._journal)
        signals = Signals(
            answers.forget,
            status.on_change,
            metrics_file.on_change,
            on_added=push_new.on_added,
            on_pch_added=push_new.on_pch_added,
        )
        loader = choose_loader(self._host, self._settings.loader, self, session=self._session)
        parts = Parts(self._host, self._settings, self._cache_directory, self._journal, loader, signals)
        parts.metrics.on_change = metrics_file.on_change
        parts.cache.on_lost = lambda lost: loop.call_soon_threadsafe(self._cache_lost, loop, lost)
        service = Service(parts, self._authority, answers)
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.callback(self._manager.close)
                self._manager.start()
                stack.push_async_callback(self._in_time, push_new.close)
                stack.push_async_callback(self._in_time, parts.close)
                await self._unless_stopped(parts.start())
                stack.push_async_callback(self._in_time, metrics_file.close)
                await metrics_file.configure(self._settings.metrics_file)
                background = Background()
                stack.push_async_callback(self._in_time, background.settle)
                reloading = background.start(self._reload_when_told(parts, metrics_file, push_new))
                stack.callback(reloading.cancel)
                await self._serve(service, signals, push_new)
        finally:
            if self._has_started:
                self._journal.log_left_out()
                self._journal.report(Event.STOPPING, "kheadersd has stopped")
        if self._lost is not None:
            raise self._lost

    def _wants_push(self) -> bool:
        """Whether headers of this machine are pushed unasked."""
        settings = self._settings
        return settings.push_new and bool(settings.registries) and self._host.is_live and not self._session

    def _cache_lost(self, loop: asyncio.AbstractEventLoop, lost: Lost) -> None:
        """End with a failure: the service manager, which starts the daemon again, makes the directory."""
        if self._lost is None and not self._stop.is_set():
            self._lost = lost
            loop.call_later(_LAST_ANSWERS, self._told_to_stop, loop)

    def _told_to_stop(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._stop.is_set():
            return
        self._stop.set()
        self._stop_by = loop.time() + _STOP_WORK
        stop_within(_STOP_THREADS)
        late = (self._journal, loop, 0 if self._lost is None else 1)
        threading.Thread(target=_end_late, args=late, name="end", daemon=True).start()

    async def _in_time(self, end: Callable[[], Awaitable[None]]) -> None:
        """Wait until something has ended, after SIGTERM until its work is given up."""
        try:
            async with asyncio.timeout_at(self._stop_by) as limit:
                await end()
        except TimeoutError:
            if not limit.expired():
                raise
            log.warning("told to stop, gave up what does not end: %s", getattr(end, "__qualname__", end))

    # The configuration

    async def _reload_when_told(self, parts: Parts, metrics_file: MetricsFile, push_new: PushNew) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            self._manager.reloading()
            try:
                await self._reload(parts, metrics_file, push_new)
            except Exception as error:
                # The next SIGHUP may do better; the service manager must not wait for this one.
                log.exception("the configuration could not be applied: %s", error)
            self._manager.reloaded()

    async def _reload(self, parts: Parts, metrics_file: MetricsFile, push_new: PushNew) -> None:
        settings, problems = await in_thread(_load_config, self._arguments)
        _tell_problems(self._journal, problems)
        await self._configure(parts, settings)
        push_new.start()
        await metrics_file.configure(settings.metrics_file)

    async def _configure(self, parts: Parts, settings: config.Config) -> None:
        """Apply what can be applied while the daemon runs."""
        old, self._settings = self._settings, settings
        changed = config.changes(old, settings)
        if settings.log_level != old.log_level and not self._arguments.debug:
            # Only then: a level that root has set over the bus stays otherwise.
            self._journal.level = settings.log_level
        _allow_descriptors(settings.max_leases + _SPARE_DESCRIPTORS)
        await parts.configure(settings)
        message = "The configuration was read again: " + (", ".join(changed) or "nothing has changed")
        if later := [name for name in changed if name in _FIXED]:
            message += f"; {' and '.join(later)} will take effect when kheadersd is started again"
        self._journal.report(Event.CONFIG_LOADED, message)

    # The bus

    async def _serve(self, service: Service, signals: Signals, push_new: PushNew) -> None:
        """Serve on the bus, and connect again when it is lost, until told to stop."""
        first = True
        while not self._stop.is_set():
            connection = await self._connect(first=first)
            if connection is None:
                self._manager.stopping()
                return
            self._connection = connection
            try:
                connection.export(SERVICE_PATH, [service.interface])
                signals.attach(connection, service.interface, service.parts.existing.describe)
                connection.export(logcontrol.PATH, [logcontrol.log_control(self._journal, self._authority)])
                # With the bus, the service manager is there, which knows whether a predecessor, or a loss of
                # the bus, has left the module loaded.
                await self._unless_stopped(service.parts.module.recover())
                await self._unless_stopped(_take_name(connection))
                if self._stop.is_set():
                    return
                self._ready(connection, first=first)
                service.parts.ahead.start()
                push_new.start()
                first = False
                await self._until_lost(connection)
            except (ConnectionLost, Timeout) as error:
                if first:
                    raise
                self._journal.report(Event.BUS_LOST, f"The bus was lost: {error.message}")
            finally:
                if self._stop.is_set():
                    self._manager.stopping()
                    # Before the connection ends: unloading the module takes the service manager.
                    await self._in_time(connection.end_calls)
                    await self._in_time(service.parts.ahead.close)
                    await self._in_time(service.parts.provider.close)
                self._connection = None
                signals.detach()
                await connection.close()

    def _ready(self, connection: Connection, *, first: bool) -> None:
        if first:
            self._has_started = True
            self._journal.report(
                Event.STARTED,
                f"kheadersd {__version__} serves {self._host.running_kernel}, cache {self._cache_directory}"
                + (f"; {self._host.running_unknown}" if self._host.running_unknown else ""),
                level="notice" if self._host.running_unknown else None,
                release=self._host.running,
                path=str(self._cache_directory),
            )
            memory.collect_often()
            self._manager.ready()
        else:
            self._journal.report(
                Event.BUS_CONNECTED, f"Connected to the bus again, as {connection.unique_name}"
            )

    async def _until_lost(self, connection: Connection) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        connection.closed.add_done_callback(lambda _: stopping.cancel())
        with contextlib.suppress(asyncio.CancelledError):
            await stopping
        if connection.closed.done():
            self._journal.report(Event.BUS_LOST, f"The bus was lost: {connection.closed.result()}")

    def _bus_address(self) -> str:
        """The address of the bus.

        Raises:
            KheadersError: there is no session bus.
        """
        try:
            return session_bus_address() if self._session else system_bus_address()
        except ValueError as error:
            raise KheadersError(str(error)) from None

    async def _connect(self, *, first: bool) -> Connection | None:
        """Connect to the bus, as often as it takes; None when told to stop meanwhile.

        Raises:
            KheadersError: the bus is not there, at start.
        """
        deadline = asyncio.get_running_loop().time() + _FIRST_CONNECT
        pauses = iter(_PAUSES)
        while not self._stop.is_set():
            try:
                connecting = Connection.open(self._bus_address(), is_shared=self._shared_bus)
                return await self._unless_stopped(connecting)
            except KheadersError as error:
                if first and asyncio.get_running_loop().time() > deadline:
                    raise
                log.debug("no bus yet: %s", error.message)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(next(pauses, _PAUSES[-1])):
                    await self._stop.wait()
        return None

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of ``work``; None when told to stop before it was done."""
        task, stopping = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, stopping):
                each.cancel()
            await asyncio.wait((task, stopping))

    async def call(self, *arguments: Any, **keywords: Any) -> Answer:
        """`Connection.call` on whatever connection there is now."""
        if self._connection is None:
            raise ConnectionLost("there is no connection to the bus at this moment")
        return await self._connection.call(*arguments, **keywords)


async def _take_name(connection: Connection) -> None:
    """Take the name of the service on the bus.

    Raises:
        KheadersError: the bus does not allow it, or another daemon has it.
    """
    try:
        await connection.request_name(SERVICE)
    except BusError as error:
        if error.name != FREEDESKTOP_ERRORS + "AccessDenied":
            raise
        raise KheadersError(
            f"{error.message}. The bus policy, the units and the daemon's user come with the distribution's "
            "package of kheadersd; without it, 'kheadersd --session' serves on the session bus"
        ) from None


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of descriptors to what is wanted, as far as the hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


if __name__ == "__main__":
    main()
