# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of kheadersctl: each calls the service, prints the answer, and returns the exit code,
or what is to be run."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from ..names import REGISTRY
from ..system import units
from ..system.printable import printable
from . import output
from .calls import headers, options, request
from .environment import Execution, env, prepare_exec
from .failures import DONE, FAILED, NOT_AVAILABLE, CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

    from .calls import ServiceClient

    Command = Callable[[ServiceClient, argparse.Namespace], Coroutine[Any, Any, int | Execution]]


async def _get(client: ServiceClient, arguments: argparse.Namespace) -> int:
    path, details = await headers(client, arguments)
    return output.show(arguments, {"path": path, **details}, path)


async def _pch(client: ServiceClient, arguments: argparse.Namespace) -> int:
    given = options(arguments, "compiler", "header", "force")
    if arguments.drop_headers:
        given["keep_headers"] = ("b", False)
    values = (arguments.release, arguments.profile, given)
    path, flags, details = await request(client, "GetPch", "ssa{sv}", *values)
    if arguments.drop_headers and details.get("headers_kept", False):
        why = details.get("why_kept", "")
        output.complain(f"kheadersctl: the headers stay in the cache{why and f': {why}'}")
    value = {"path": path, "arguments": flags, **details}
    return output.show(arguments, value, shlex.join(flags) if arguments.arguments else path)


async def _types(client: ServiceClient, arguments: argparse.Namespace) -> int:
    path, details = await request(client, "GetTypes", "sa{sv}", arguments.release, {})
    return output.show(arguments, {"path": path, **details}, path)


async def _list(client: ServiceClient, arguments: argparse.Namespace) -> int:
    (entries,) = await client.call("ListEntries")
    if arguments.json:
        output.put_json(entries)
    elif entries:
        output.put_table(
            ("RELEASE", "WHAT", "SOURCE", "SIZE", "FILES", "MADE", "LAST USED", "PATH"),
            _entry_rows(entries, units.size),
            _entry_rows(entries, str),
        )
    elif output.is_terminal():
        output.put("The cache is empty; 'kheadersctl get' fills it.")
    return DONE


def _entry_rows(
    entries: Iterable[Mapping[str, Any]], size: Callable[[int], str]
) -> Iterator[tuple[str, ...]]:
    """A row for each entry, and one for each of its precompiled headers that came from a registry."""
    for entry in entries:
        yield _entry_row(entry, size(entry.get("bytes", 0)))
        for origin in entry.get("pch_origins", ()):
            yield (entry.get("release", "-"), "pch", f"{REGISTRY} {origin}", *["-"] * 5)


def _entry_row(entry: Mapping[str, Any], size: str) -> tuple[str, ...]:
    return (
        entry.get("release", "-"),
        _contents(entry),
        _source(entry),
        size,
        str(entry.get("files", "-")),
        output.moment(entry.get("extracted_at", 0)),
        output.moment(entry.get("last_used", 0)),
        entry.get("source_tree", "-"),
    )


def _source(entry: Mapping[str, Any]) -> str:
    """The source of an entry; of a registry, with the repository and the digest."""
    source: str = entry.get("source", "-")
    return f"{source} {entry.get('origin', '')}".strip() if source == REGISTRY else source


def _contents(entry: Mapping[str, Any]) -> str:
    """What an entry has, as in "headers+2pch"."""
    kept = entry.get("kind", "-") if entry.get("headers_kept", True) else ""
    count = entry.get("pch_count", 0)
    return "+".join(filter(None, (kept, f"{count}pch" if count else "")))


async def _status(client: ServiceClient, arguments: argparse.Namespace) -> int:
    (text,) = await client.call("Describe")
    description = json.loads(text)
    if arguments.json:
        output.put_json(description)
        return DONE
    properties = await client.properties()
    (leases,) = await client.call("ListLeases")
    output.put_fields(
        {
            "Version": properties["Version"],
            "Running kernel": properties["RunningRelease"] or "unknown",
            "Headers": await _whereabouts(client, description) if properties["RunningRelease"] else "unknown",
            "Cache": f"{output.count(properties['EntryCount'], 'entry', 'entries')}, "
            f"{units.size(properties['CacheBytes'])} in {properties['CacheDirectory']}",
            "Module": properties["ModuleState"] + (" (by kheadersd)" if properties["ModuleOwned"] else ""),
            "Activity": properties["Activity"],
            "Leases": str(properties["LeaseCount"]),
            **_registry(description.get("registry", {})),
            **_ahead(description.get("ahead", {})),
            **_last_error(*properties["LastError"]),
        }
    )
    for release, owner, uid, pid, reason in leases:
        output.put(printable(f"  {release}  {owner}  user {uid}  process {pid}  {reason}").rstrip())
    return DONE


async def _whereabouts(client: ServiceClient, description: Mapping[str, Any]) -> str:
    """Where the running kernel's headers are now.

    Where a look at trees in place must tell, which Describe does not take, Lookup does; that counts as a use.
    """
    none = "none now; 'kheadersctl get' looks for them"
    headers: Mapping[str, Any] | None = description.get("headers")
    if headers is None:
        try:
            path, headers = await client.call("Lookup", "s", "")
        except CommandError as error:
            if error.code != NOT_AVAILABLE:
                raise
            return none
        headers = {"path": path, **headers}
    return f"{headers['path']} (from {_source(headers)})" if headers else none


def _registry(state: Mapping[str, Any]) -> dict[str, str]:
    """The repositories that headers are fetched from; {} if there are none."""
    if not state.get("repositories"):
        return {}
    settings = {
        "first": "asked first",
        "unsigned": "signed or not",
        "push_new": "new headers are pushed",
        "push_new_pchs": "precompiled ones, too",
    }
    notes = ", ".join(text for name, text in settings.items() if state.get(name))
    return {"Registry": " ".join(state["repositories"]) + (f" ({notes})" if notes else "")}


def _ahead(state: Mapping[str, Any]) -> dict[str, str]:
    """What has become of the precompiled headers that the configuration names; {} if it names none."""
    if not state.get("profiles"):
        return {}
    texts = [f"{state['made']} of {state['wanted']} precompiled headers made"]
    texts += [
        " ".join(filter(None, (problem["profile"], problem["release"], problem["compiler"])))
        + f": {problem['message']}"
        for problem in state["problems"]
    ]
    texts += [f"the headers of {release} stay: {why}" for release, why in state["headers_kept"].items()]
    return {"Ahead": "; ".join(texts) + (" (at work)" if state["state"] == "working" else "")}


def _last_error(name: str, message: str) -> dict[str, str]:
    return {"Last error": f"{message} ({name.rpartition('.')[2]})"} if name else {}


async def _verify(client: ServiceClient, arguments: argparse.Namespace) -> int:
    releases = [arguments.release]
    if arguments.release is None:
        (entries,) = await client.call("ListEntries")
        releases = list(dict.fromkeys(entry["release"] for entry in entries))
    results, lines = [], []
    for release in releases:
        try:
            intact, problems = await client.call("Verify", "sa{sv}", release, {})
        except CommandError as error:
            if arguments.release is None and error.code == NOT_AVAILABLE:
                continue  # the entry was removed meanwhile
            raise
        results.append({"release": release, "intact": intact, "problems": problems})
        lines.append(printable(f"{release or 'running kernel'}: {'intact' if intact else 'damaged'}"))
        lines += ["  " + printable(problem) for problem in problems]
    if not results and output.is_terminal():
        lines.append("The cache is empty.")
    output.show(arguments, results, *lines)
    return DONE if all(result["intact"] for result in results) else FAILED


async def _remove(client: ServiceClient, arguments: argparse.Namespace) -> int:
    (freed,) = await client.call("Remove", "sa{sv}", arguments.release, options(arguments, "force"))
    return output.show(arguments, {"bytes_freed": freed}, f"{units.size(freed)} freed")


async def _prune(client: ServiceClient, arguments: argparse.Namespace) -> int:
    releases, freed = await client.call("Prune", "a{sv}", {})
    lines = (f"removed {printable(release)}" for release in releases)
    value = {"releases": releases, "bytes_freed": freed}
    return output.show(arguments, value, *lines, f"{units.size(freed)} freed")


async def _unload(client: ServiceClient, arguments: argparse.Namespace) -> int:
    (state,) = await client.call("UnloadModule", "a{sv}", {})
    return output.show(arguments, {"module_state": state}, printable(state))


COMMANDS: dict[str, Command] = {
    "status": _status,
    "get": _get,
    "pch": _pch,
    "types": _types,
    "list": _list,
    "env": env,
    "exec": prepare_exec,
    "verify": _verify,
    "remove": _remove,
    "prune": _prune,
    "unload": _unload,
}
"""The commands by name that do nothing but call."""
