"""The interface `org.kheaders.Provide`: translates between the bus and the provider, and decides nothing.

Whatever a caller sends is checked here, before anything else sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .. import __version__
from ..dbus.codec import Variant, encode, escaped
from ..dbus.objects import Interface, Method, Property, Reply
from ..errors import KheadersError
from ..headers.consent import Action
from ..headers.requests import Request, Served
from ..journal import Event
from ..names import SERVICE, SERVICE_PATH
from ..pch.requests import PchRequest, ServedPch
from .options import COMPILER, FORCE, HEADERS, KEEP_HEADERS, REASON, REFRESH, SOURCES, Option, Options

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..dbus.connection import Connection
    from ..dbus.objects import Call
    from ..release import Release
    from ..vmlinux.provider import ServedTypes
    from .observer import Observer
    from .polkit import Authority
    from .status import State


Values = Sequence[object]
Handler = Callable[["Call"], "Values | Reply | Awaitable[Values | Reply]"]

_HEADERS = "sa{sv}"
_LEASED = "sha{sv}"
_EXPORTED = "ha{sv}"
_PRECOMPILED = "sasa{sv}"
# Enough for one PropertiesChanged to tell of all that one piece of work changes.
_SETTLE = 0.02
_MAX_ENCODED = 256


class Service:
    """The object on the bus. One serves all connections that follow one another.

    Args:
        make_state: makes everything there is to be served, given whom to tell what happens: this object.
    """

    def __init__(self, make_state: Callable[[Observer], State], authority: Authority) -> None:
        self.state = self._state = make_state(self)
        self._authority = authority
        self._connection: Connection | None = None
        self._encoded: dict[Served | ServedPch, Reply] = {}
        self._looked: dict[Request, Served] = {}
        self._told: dict[str, object] = {}
        self._telling: asyncio.TimerHandle | None = None
        self.interface = self._make_interface()

    # The connection

    def attach(self, connection: Connection) -> None:
        """Serve on this connection from now on."""
        self._connection = connection
        self._told = self._current()
        connection.export(SERVICE_PATH, [self.interface])

    def detach(self) -> None:
        """The connection is gone; signals go nowhere until the next one."""
        self._connection = None
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    # Signals (the provider's Observer)

    def entry_added(self, entry: Entry) -> None:
        details = _details(self._state.existing.describe(entry))
        self._emit("EntryAdded", "ssa{sv}", [entry.release, str(entry.path), details])

    def entry_removed(self, entry: Entry, reason: str) -> None:
        self._encoded.clear()
        self._emit("EntryRemoved", "sss", [entry.release, str(entry.path), reason])

    def progress(self, release: Release, stage: str, fraction: float) -> None:
        self._emit("Progress", "ssd", [release, stage, fraction])

    def changed(self) -> None:
        """Tell soon which properties have changed: what happens together is told together."""
        self._encoded.clear()  # answers tell of such things, too
        if self._telling is None and self._connection is not None:
            self._telling = asyncio.get_running_loop().call_later(_SETTLE, self._tell)

    def _tell(self) -> None:
        self._telling = None
        current = self._current()
        changed = [name for name, value in current.items() if self._told.get(name) != value]
        self._told = current
        if changed and self._connection is not None:
            self._connection.properties_changed(SERVICE_PATH, SERVICE, changed)

    def _current(self) -> dict[str, object]:
        return {name: prop.get() for name, prop in self.interface.properties.items() if prop.emits == "true"}

    def _emit(self, member: str, signature: str, values: Values) -> None:
        if self._connection is not None:
            self._connection.emit(SERVICE_PATH, SERVICE, member, signature, values)

    # The interface

    def _make_interface(self) -> Interface:
        state = self._state
        methods = {
            "GetHeaders": Method("sa{sv}", _HEADERS, self._get_headers, reads_at_once=True),
            "Acquire": Method("sa{sv}", _LEASED, self._told_of_failure(self._acquire), only_reads=True),
            "Export": Method("sa{sv}", _EXPORTED, self._told_of_failure(self._export), only_reads=True),
            "Lookup": Method("s", _HEADERS, self._lookup, only_reads=True),
            "GetPch": Method("ssa{sv}", _PRECOMPILED, self._get_pch, reads_at_once=True),
            "GetTypes": Method("sa{sv}", _HEADERS, self._get_types, reads_at_once=True),
            "UnloadModule": Method("a{sv}", "s", self._told_of_failure(self._unload_module)),
            "Remove": Method("sa{sv}", "t", self._told_of_failure(self._remove)),
            "Prune": Method("a{sv}", "ast", self._told_of_failure(self._prune)),
            "Verify": Method("sa{sv}", "bas", self._told_of_failure(self._verify), only_reads=True),
            "ListEntries": Method("", "aa{sv}", self._list_entries, only_reads=True),
            "ListLeases": Method("", "a(ssuus)", self._list_leases, only_reads=True),
            "Describe": Method("", "s", self._describe, only_reads=True),
        }
        properties = {
            "Version": Property("s", lambda: __version__, emits="const"),
            "RunningRelease": Property("s", lambda: state.host.running or "", emits="const"),
            "CacheDirectory": Property("s", lambda: str(state.cache.directory), emits="const"),
            "ModuleState": Property("s", state.module.state, emits="true"),
            "ModuleOwned": Property("b", lambda: state.module.owned, emits="true"),
            "Activity": Property("s", lambda: state.progress.activity, emits="true"),
            "EntryCount": Property("u", lambda: len(state.cache.entries()), emits="true"),
            "CacheBytes": Property("t", state.cache.total_bytes, emits="true"),
            "LeaseCount": Property("u", lambda: len(state.leases), emits="true"),
            "LastError": Property("(ss)", lambda: list(state.last_error), emits="true"),
        }
        return Interface(SERVICE, methods, properties, interface_xml())

    # Methods

    def _get_headers(self, call: Call) -> Reply | Awaitable[Values | Reply]:
        request = self._request(call, (SOURCES, REFRESH))
        if not request.refresh and (served := self._ready(request)):
            return self._reply(served)

        async def slowly(call: Call) -> Reply:
            return self._reply(await self._get(call, request))

        return self._told_of_failure(slowly)(call)

    async def _acquire(self, call: Call) -> Reply:
        request, options = self._request_and_options(call, (SOURCES, REFRESH, REASON))
        served, lease = await self._lease(call, request, options[REASON])
        with _given_back(lease):
            return Reply(encode(_LEASED, [str(served.path), 0, _details(served)]), [lease])

    async def _export(self, call: Call) -> Reply:
        request, _ = self._request_and_options(call, (SOURCES, REFRESH))
        uid = (await call.credentials()).uid
        served, lease = await self._lease(call, request, "it is being exported", in_entry=True)
        assert served.entry is not None
        with _given_back(lease):
            body = encode(_EXPORTED, [0, _details(served)])
        archive = await self._state.exports.start(served.entry, uid, ended=lambda: os.close(lease))
        return Reply(body, [archive])

    async def _lease(
        self, call: Call, request: Request, reason: str, *, in_entry: bool = False
    ) -> tuple[Served, int]:
        """Headers that stay for as long as the descriptor is open; with ``in_entry`` no tree in place."""
        credentials = await call.credentials()
        while True:
            served = await self._get(call, request)
            if in_entry:
                served = await self._state.provider.copied(served, _Asking(call, self._authority))
            # From here to the lease nothing else runs; the entry may have left while we waited for it.
            if served.entry is None or (served.entry in self._state.cache and served.entry.has_headers):
                break
        _given(served.entry)
        name, inode = (served.entry.name, served.entry.inode) if served.entry is not None else ("", 0)
        lease = self._state.leases.grant(
            name, served.release, call.sender, credentials.uid, credentials.pid, reason, inode
        )
        with _given_back(lease):
            self._state.journal.report(
                Event.LEASE_GRANTED,
                f"The headers of {served.release} are leased to {call.sender}: {reason or 'no reason'}",
                release=served.release,
                path=str(served.path),
                client_uid=credentials.uid,
            )
        return served, lease

    async def _get(self, call: Call, request: Request) -> Served:
        return await self._state.provider.get(request, _Asking(call, self._authority))

    def _lookup(self, call: Call) -> Reply | Awaitable[Reply]:
        release = self._release(call.args[0])
        request = Request(release, self._state.config.sources)
        if served := self._ready(request):
            return self._reply(served)
        return self._lookup_slowly(request)

    async def _lookup_slowly(self, request: Request) -> Reply:
        return self._reply(await self._state.existing.lookup(request))

    def _get_pch(self, call: Call) -> Reply | Awaitable[Values | Reply]:
        release, profile, given = call.args
        options = Options(_variants(given), (COMPILER, HEADERS, KEEP_HEADERS, FORCE))
        headers: Sequence[str] = options[HEADERS]
        request = PchRequest(
            self._release(release),
            str(profile),
            tuple(headers),
            options[COMPILER],
            options[KEEP_HEADERS],
            options[FORCE],
        )
        # A list of one's own takes an authorisation, whether it has been made or not.
        if not request.headers and (ready := self._state.workshop.pch.ready(request)):
            return self._precompiled(ready)

        async def slowly(call: Call) -> Reply:
            asking = _Asking(call, self._authority)
            return self._precompiled(await self._state.workshop.pch.get(request, asking))

        return self._told_of_failure(slowly)(call)

    def _precompiled(self, served: ServedPch) -> Reply:
        """The answer with a precompiled header, encoded once for all who get the same."""
        reply = self._encoded.get(served)
        if reply is None:
            details = _details(self._state.existing.describe(served.entry)) | _pch_details(served)
            reply = Reply(encode(_PRECOMPILED, [str(served.pch.path), list(served.arguments), details]))
            self._remember(served, reply)
        return reply

    def _get_types(self, call: Call) -> Values | Awaitable[Values | Reply]:
        release = self._release(call.args[0])
        Options(_variants(call.args[1]), ())
        if there := self._state.workshop.types.there(release):
            return self._types(there)

        async def slowly(call: Call) -> Values:
            asking = _Asking(call, self._authority)
            return self._types(await self._state.workshop.types.get(release, asking))

        return self._told_of_failure(slowly)(call)

    def _types(self, served: ServedTypes) -> Values:
        _given(served.entry)
        details = _details(self._state.existing.describe(served.entry, fresh=served.fresh))
        details["arguments"] = Variant("as", list(served.arguments))
        return [str(served.path), details]

    async def _unload_module(self, call: Call) -> Values:
        Options(_variants(call.args[0]), ())
        await self._authority.require(call, Action.MANAGE)
        return [await self._state.module.unload_if_idle()]

    async def _remove(self, call: Call) -> Values:
        release = self._release(call.args[0])
        options = Options(_variants(call.args[1]), (FORCE,))
        await self._authority.require(call, Action.MANAGE)
        return [await self._state.keeper.remove(release, force=options[FORCE])]

    async def _prune(self, call: Call) -> Values:
        Options(_variants(call.args[0]), ())
        await self._authority.require(call, Action.MANAGE)
        return await self._state.prune()

    async def _verify(self, call: Call) -> Values:
        release = self._release(call.args[0])
        Options(_variants(call.args[1]), ())
        problems = await self._state.keeper.verify(release)
        return [not problems, problems]

    def _list_entries(self, call: Call) -> Values:  # noqa: ARG002
        return [[_details(self._state.existing.describe(entry)) for entry in self._state.cache.entries()]]

    def _list_leases(self, call: Call) -> Values:  # noqa: ARG002
        return [
            [
                [lease.release, lease.sender, lease.uid, lease.pid, lease.reason]
                for lease in self._state.leases.all()
            ]
        ]

    def _describe(self, call: Call) -> Values:  # noqa: ARG002
        return [json.dumps(escaped(self._state.describe()))]

    def _ready(self, request: Request) -> Served | None:
        """As `ExistingHeaders.ready`, looked at once for all calls that have come in together."""
        served = self._looked.get(request)
        if served is None and (served := self._state.existing.ready(request)):
            if not self._looked:
                # Before anything else is read from the bus, or done at all.
                asyncio.get_running_loop().call_soon(self._looked.clear)
            self._looked[request] = served
        return served

    # What comes in

    def _request(self, call: Call, allowed: Sequence[Option[Any]]) -> Request:
        return self._request_and_options(call, allowed)[0]

    def _request_and_options(self, call: Call, allowed: Sequence[Option[Any]]) -> tuple[Request, Options]:
        options = Options(_variants(call.args[1]), allowed)
        chosen = options[SOURCES]
        sources = tuple(chosen or self._state.config.sources)
        return Request(self._release(call.args[0]), sources, options[REFRESH]), options

    def _release(self, text: object) -> Release:
        return self._state.host.release_of(str(text))

    # What goes out

    def _reply(self, served: Served) -> Reply:
        """The answer with these headers, encoded once for all who get the same."""
        _given(served.entry)
        reply = self._encoded.get(served)
        if reply is None:
            reply = Reply(encode(_HEADERS, [str(served.path), _details(served)]))
            self._remember(served, reply)
        return reply

    def _remember(self, served: Served | ServedPch, reply: Reply) -> None:
        if len(self._encoded) >= _MAX_ENCODED:
            self._encoded.clear()
        self._encoded[served] = reply

    def _told_of_failure(
        self, handler: Callable[[Call], Awaitable[Values | Reply]]
    ) -> Callable[[Call], Awaitable[Values | Reply]]:
        """Let the journal and LastError know when work fails."""

        async def handle(call: Call) -> Values | Reply:
            try:
                return await handler(call)
            except KheadersError as error:
                release = call.args[0] if call.args and isinstance(call.args[0], str) else None
                self._state.failed(error, release, call.connection.known_user(call.sender))
                raise

        return handle


class _Asking:
    """The `Caller` of a method."""

    def __init__(self, call: Call, authority: Authority) -> None:
        self.is_interactive = call.allow_interactive
        self._call = call
        self._authority = authority

    async def consent(self, action: Action) -> int:
        await self._authority.require(self._call, action)
        return (await self._call.credentials()).uid

    async def may(self, action: Action) -> bool:
        return await self._authority.allows(self._call, action)


def interface_xml() -> str:
    """The ``<interface>`` element of the installed XML file, word for word."""
    text = importlib.resources.files("kheadersd").joinpath("data/org.kheaders.Provide.xml").read_text("utf-8")
    return text[text.index("<interface") : text.index("</interface>") + len("</interface>")]


@contextlib.contextmanager
def _given_back(lease: int) -> Iterator[None]:
    """End a lease if what is done with it fails."""
    try:
        yield
    except BaseException:
        os.close(lease)
        raise


def _variants(options: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", options)


def _given(entry: Entry | None) -> None:
    """Note that somebody has been given what is in an entry, and works with it now."""
    if entry is not None:
        entry.given_at = time.monotonic()


def _details(served: Served) -> dict[str, Variant]:
    """What callers are told of headers, as ``a{sv}``."""
    details = {
        "release": Variant("s", served.release),
        "source": Variant("s", served.source),
        "source_tree": Variant("s", str(served.tree.source_tree)),
        "build_tree": Variant("s", str(served.tree.build_tree)),
        "fresh": Variant("b", served.fresh),
        "environment": Variant("a{ss}", dict(served.environment)),
    }
    if served.warnings:
        details["warnings"] = Variant("as", list(served.warnings))
    if served.entry is not None:
        record = served.entry.record
        details |= {
            "digest": Variant("s", record.digest),
            "bytes": Variant("t", served.entry.bytes),
            "files": Variant("u", record.files),
            "extracted_at": Variant("t", record.extracted_at),
            "last_used": Variant("t", served.last_used),
            "origin": Variant("s", record.origin),
            "kind": Variant("s", record.kind),
            "headers_kept": Variant("b", served.entry.has_headers),
            "pch_count": Variant("u", len(served.entry.pchs)),
        }
    return details


def _pch_details(served: ServedPch) -> dict[str, Variant]:
    """What callers are told of a precompiled header besides."""
    record = served.pch.record
    details = {
        "fresh": Variant("b", served.fresh),
        "key": Variant("s", record.key),
        "profile": Variant("s", record.profile),
        "consumer": Variant("s", served.profile.consumer),
        "compiler": Variant("s", record.compiler),
        "compiler_version": Variant("s", record.compiler_version),
        "headers": Variant("as", list(record.headers)),
        "pch_bytes": Variant("t", record.bytes),
    }
    if served.why_kept:
        details["why_kept"] = Variant("s", served.why_kept)
    if record.backend:
        details["backend_arguments"] = Variant("as", list(record.backend))
    return details
