# SPDX-License-Identifier: LGPL-2.1-or-later
"""The methods of the interface `org.kheaders.Provide`.

Each checks what the caller sends, lets a part of the daemon do the work, and describes the result. An answer
that is there already is returned at once; what takes time is a coroutine.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from ..dbus.codec import encode, escaped
from ..dbus.objects import Interface, Method, Reply, interface_xml
from ..errors import KheadersError
from ..events import Event
from ..headers.consent import Action
from ..headers.environment import links_of_tools
from ..headers.requests import Request
from ..names import SERVICE
from ..pch.requests import PchRequest
from .options import (
    COMPILER,
    DEFINES,
    DROP_RESTORED,
    FORCE,
    HEADERS,
    KEEP_HEADERS,
    REASON,
    REFRESH,
    SOURCES,
    Option,
    Options,
)
from .replies import details, entry_details, pch_details, variants
from .status import describe, properties

if TYPE_CHECKING:
    from ..cache.entry import Entry
    from ..dbus.objects import Call
    from ..headers.requests import Served
    from ..pch.requests import ServedPch
    from ..release import Release
    from ..vmlinux.provider import ServedTypes
    from .answers import Answers
    from .parts import Parts
    from .polkit import Authority

P = ParamSpec("P")

Result = Sequence[object] | Reply
Later = Coroutine[Any, Any, Result]

_HEADERS = "sa{sv}"
_LEASED = "sha{sv}"
_EXPORTED = "ha{sv}"
_PRECOMPILED = "sasa{sv}"


def _noted(
    handler: Callable[Concatenate[Service, Call, P], Awaitable[Result]],
) -> Callable[Concatenate[Service, Call, P], Later]:
    """The handler, with its failures noted for the journal and LastError."""

    async def handle(self: Service, call: Call, /, *args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return await handler(self, call, *args, **kwargs)
        except KheadersError as error:
            _note(self, call, error)
            raise

    return handle


def _noted_at_once(
    handler: Callable[[Service, Call], Result | Later],
) -> Callable[[Service, Call], Result | Later]:
    """As `_noted`, for one that answers at once or returns a coroutine, which is another handler's."""

    def handle(self: Service, call: Call) -> Result | Later:
        try:
            return handler(self, call)
        except KheadersError as error:
            _note(self, call, error)
            raise

    return handle


def _note(service: Service, call: Call, error: KheadersError) -> None:
    release = call.args[0] if call.args and isinstance(call.args[0], str) else None
    if release == "":
        release = service.parts.host.running
    service.parts.failures.note(error, release, call.connection.known_user(call.sender))
    service.parts.metrics.on_failure(error.bus_name)


class Service:
    """The interface over the parts of a daemon, with one method here for each of its methods.

    Attributes:
        interface: what a connection exports.
    """

    def __init__(self, parts: Parts, authority: Authority, answers: Answers) -> None:
        self.parts = parts
        self._authority = authority
        self._answers = answers
        methods = {
            "GetHeaders": Method("sa{sv}", _HEADERS, self._get_headers, reads_at_once=True),
            "Acquire": Method("sa{sv}", _LEASED, self._acquire, only_reads=True),
            "Export": Method("sa{sv}", _EXPORTED, self._export, only_reads=True),
            "Lookup": Method("s", _HEADERS, self._lookup, only_reads=True),
            "GetPch": Method("ssa{sv}", _PRECOMPILED, self._get_pch, reads_at_once=True),
            "GetTypes": Method("sa{sv}", _HEADERS, self._get_types, reads_at_once=True),
            "UnloadModule": Method("a{sv}", "s", self._unload_module),
            "Remove": Method("sa{sv}", "t", self._remove),
            "Prune": Method("a{sv}", "ast", self._prune),
            "Verify": Method("sa{sv}", "bas", self._verify, only_reads=True),
            "ListEntries": Method("", "aa{sv}", self._list_entries, only_reads=True),
            "ListLeases": Method("", "a(ssuus)", self._list_leases, only_reads=True),
            "Describe": Method("", "s", self._describe, only_reads=True),
        }
        xml = interface_xml(SERVICE, "org.kheaders.Provide.xml")
        self.interface = Interface(SERVICE, methods, properties(parts), xml)

    # Headers

    @_noted_at_once
    def _get_headers(self, call: Call) -> Result | Later:
        if ready := self._answers.found(call, self._headers_asked_for):
            return self._hand_out(*ready)
        return self._get_headers_later(call)

    def _headers_asked_for(self, call: Call) -> tuple[Served, Reply] | None:
        request, _ = self._request(call, SOURCES, REFRESH)
        return None if request.refresh else self._ready_headers(request)

    @_noted
    async def _get_headers_later(self, call: Call) -> Reply:
        request, _ = self._request(call, SOURCES, REFRESH)
        return self._headers(await self.parts.provider.get(request, self._caller(call)))

    @_noted_at_once
    def _lookup(self, call: Call) -> Result | Later:
        if ready := self._answers.found(call, self._headers_looked_up):
            return self._hand_out(*ready)
        return self._lookup_later(call)

    def _headers_looked_up(self, call: Call) -> tuple[Served, Reply] | None:
        return self._ready_headers(self._lookup_request(call))

    async def _lookup_later(self, call: Call) -> Reply:
        return self._headers(await self.parts.existing.lookup(self._lookup_request(call)))

    @_noted
    async def _acquire(self, call: Call) -> Reply:
        request, options = self._request(call, SOURCES, REFRESH, REASON)
        served, lease = await self._lease(call, request, options[REASON])
        with _closed_on_error(lease):
            return Reply(encode(_LEASED, [str(served.path), 0, variants(details(served))]), [lease])

    @_noted
    async def _export(self, call: Call) -> Reply:
        request, _ = self._request(call, SOURCES, REFRESH)
        uid = (await call.credentials()).uid
        served, lease = await self._lease(call, request, "it is being exported", in_entry=True)
        assert served.entry is not None
        with _closed_on_error(lease):
            body = encode(_EXPORTED, [0, variants(details(served))])
        archive = self.parts.exports.start(served.entry, uid, on_end=lambda: os.close(lease))
        return Reply(body, [archive])

    async def _lease(
        self, call: Call, request: Request, reason: str, *, in_entry: bool = False
    ) -> tuple[Served, int]:
        """Headers, of an entry if ``in_entry``, and the descriptor that keeps them while it is open."""
        parts = self.parts
        credentials = await call.credentials()
        while True:
            ready = None if request.refresh else parts.existing.ready(request)
            served = ready or await parts.provider.get(request, self._caller(call))
            if in_entry:
                served = await parts.provider.copied(served, self._caller(call))
            # Nothing else runs from here to the lease; the entry may have been removed before.
            if served.entry is None or (served.entry in parts.cache and served.entry.has_headers):
                break
        _in_use(served.entry)
        parts.metrics.on_headers(served.source, fresh=served.fresh)
        name, inode = (served.entry.name, served.entry.inode) if served.entry is not None else ("", 0)
        lease = parts.leases.grant(
            name, served.release, call.sender, credentials.uid, credentials.pid, reason, inode
        )
        with _closed_on_error(lease):
            parts.journal.report(
                Event.LEASE_GRANTED,
                f"The headers of {served.release} are leased to {call.sender}: {reason or 'no reason'}",
                release=served.release,
                path=str(served.path),
                client_uid=credentials.uid,
            )
        return served, lease

    def _ready_headers(self, request: Request) -> tuple[Served, Reply] | None:
        served = self.parts.existing.ready(request)
        return None if served is None else (served, self._encoded_headers(served))

    def _headers(self, served: Served) -> Reply:
        return self._hand_out(served, self._encoded_headers(served))

    def _encoded_headers(self, served: Served) -> Reply:
        return self._answers.encoded(served, _encode_headers, self._links(served.release))

    def _hand_out(self, served: Served, reply: Reply) -> Reply:
        """The reply, once it is noted that its headers are given to a caller."""
        _in_use(served.entry)
        self.parts.metrics.on_headers(served.source, fresh=served.fresh)
        return reply

    def _links(self, release: Release) -> tuple[object, ...]:
        """What the environment in a reply depends on, besides what is served."""
        return links_of_tools(release, self.parts.host)

    def _lookup_request(self, call: Call) -> Request:
        return Request(self._release(call.args[0]), self.parts.config.sources)

    # What is made from headers

    @_noted_at_once
    def _get_pch(self, call: Call) -> Result | Later:
        if ready := self._answers.found(call, self._pch_asked_for):
            return self._hand_out_pch(*ready)
        return self._get_pch_later(call)

    def _pch_asked_for(self, call: Call) -> tuple[ServedPch, Reply] | None:
        request = self._pch_request(call)
        # A caller's own list of headers takes an authorisation, whether it has been made or not.
        served = None if request.headers else self.parts.derived.pch.ready(request)
        return None if served is None else (served, self._encoded_pch(served))

    def _pch_request(self, call: Call) -> PchRequest:
        release, profile, given = call.args
        options = Options(given, COMPILER, HEADERS, DEFINES, KEEP_HEADERS, DROP_RESTORED, FORCE)
        return PchRequest(
            self._release(release),
            str(profile),
            options[HEADERS],
            options[COMPILER],
            options[KEEP_HEADERS],
            options[FORCE],
            options[DEFINES],
            drop_restored=options[DROP_RESTORED],
        )

    @_noted
    async def _get_pch_later(self, call: Call) -> Reply:
        served = await self.parts.derived.pch.get(self._pch_request(call), self._caller(call))
        return self._hand_out_pch(served, self._encoded_pch(served))

    def _encoded_pch(self, served: ServedPch) -> Reply:
        return self._answers.encoded(served, self._encode_pch, self._links(served.entry.release))

    def _hand_out_pch(self, served: ServedPch, reply: Reply) -> Reply:
        self.parts.metrics.on_pch(fresh=served.fresh)
        return reply

    def _encode_pch(self, served: ServedPch) -> Reply:
        described = variants(pch_details(served, self.parts.existing.describe(served.entry)))
        return Reply(encode(_PRECOMPILED, [str(served.pch.path), list(served.arguments), described]))

    @_noted_at_once
    def _get_types(self, call: Call) -> Result | Later:
        release = self._release(call.args[0])
        Options(call.args[1])
        if ready := self.parts.derived.types.ready(release):
            return self._types(ready)
        return self._get_types_later(call, release)

    @_noted
    async def _get_types_later(self, call: Call, release: Release) -> Result:
        return self._types(await self.parts.derived.types.get(release, self._caller(call)))

    def _types(self, served: ServedTypes) -> Result:
        _in_use(served.entry)
        self.parts.metrics.on_types(fresh=served.fresh)
        values = details(self.parts.existing.describe(served.entry, fresh=served.fresh))
        return [str(served.path), variants(values | {"arguments": list(served.arguments)})]

    # The cache and the module

    @_noted
    async def _unload_module(self, call: Call) -> Result:
        Options(call.args[0])
        await self._authority.require(call, Action.MANAGE)
        return [await self.parts.module.unload_if_idle()]

    @_noted
    async def _remove(self, call: Call) -> Result:
        release = self._release(call.args[0])
        options = Options(call.args[1], FORCE)
        await self._authority.require(call, Action.MANAGE)
        return [await self.parts.lifecycle.removal.remove(release, force=options[FORCE])]

    @_noted
    async def _prune(self, call: Call) -> Result:
        Options(call.args[0])
        await self._authority.require(call, Action.MANAGE)
        return await self.parts.prune()

    @_noted
    async def _verify(self, call: Call) -> Result:
        release = self._release(call.args[0])
        Options(call.args[1])
        problems = await self.parts.lifecycle.verification.verify(release)
        return [not problems, problems]

    def _list_entries(self, call: Call) -> Result:  # noqa: ARG002
        entries = self.parts.cache.entries()
        return [[variants(entry_details(self.parts.existing.describe(entry))) for entry in entries]]

    def _list_leases(self, call: Call) -> Result:  # noqa: ARG002
        leases = self.parts.leases.all()
        return [[[lease.release, lease.sender, lease.uid, lease.pid, lease.reason] for lease in leases]]

    def _describe(self, call: Call) -> Result:  # noqa: ARG002
        return [json.dumps(escaped(describe(self.parts)))]

    # What callers send

    def _request(self, call: Call, *allowed: Option[Any]) -> tuple[Request, Options]:
        options = Options(call.args[1], *allowed)
        sources = options[SOURCES] or self.parts.config.sources
        return Request(self._release(call.args[0]), sources, options[REFRESH]), options

    def _release(self, text: str) -> Release:
        return self.parts.host.release_of(text)

    def _caller(self, call: Call) -> CallAuthorisation:
        return CallAuthorisation(call, self._authority)


class CallAuthorisation:
    """What the caller of a method is authorised for: the `consent.Caller` of a call."""

    def __init__(self, call: Call, authority: Authority) -> None:
        self.is_interactive = call.allow_interactive
        self._call = call
        self._authority = authority

    async def consent(self, action: Action) -> int:
        """Require an action of polkit; the caller's user ID."""
        await self._authority.require(self._call, action)
        return (await self._call.credentials()).uid

    async def may(self, action: Action) -> bool:
        """Whether polkit allows an action without asking."""
        return await self._authority.allows(self._call, action)


def _encode_headers(served: Served) -> Reply:
    return Reply(encode(_HEADERS, [str(served.path), variants(details(served))]))


def _in_use(entry: Entry | None) -> None:
    """Note that a program is given what is in an entry, and works with it from now on."""
    if entry is not None:
        entry.given_at = time.monotonic()


@contextlib.contextmanager
def _closed_on_error(lease: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(lease)
        raise
