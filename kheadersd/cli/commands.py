"""What each command of kheadersctl does: it asks the service, shows the answer, and returns the exit code."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from ..dbus.codec import Variant
from ..errors import Corrupt
from ..formats.tar import TarReader
from ..names import SERVICE
from ..system.printable import printable
from ..system.tasks import in_thread
from . import output as text
from .client import DONE, FAILED, NO_DAEMON, NOT_AVAILABLE, Client, CommandError, plain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    Command = Callable[[Client, argparse.Namespace], Awaitable[int]]

_MAX_REASON = 256  # characters, the service's limit
_PIECE = 1 << 16


class Prepared:
    """A program that is ready to take this one's place: its environment, and the lease it will hold."""

    def __init__(self, command: list[str], environment: Mapping[str, str], lease: int) -> None:
        self.command = command
        self.environment = environment
        self.lease = lease

    def run(self) -> NoReturn:
        """Become the program.

        Raises:
            CommandError: there is no such program (127), or it cannot be run (126), as in a shell.
        """
        import signal

        # The program inherits the lease, and with it whatever it starts: it ends with the last of them.
        os.set_inheritable(self.lease, True)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and the program would inherit that
            signal.signal(ignored, signal.SIG_DFL)
        try:
            os.execvpe(self.command[0], self.command, {**os.environ, **self.environment})
        except OSError as error:
            code = 127 if isinstance(error, FileNotFoundError) else 126
            name = printable(self.command[0])
            raise CommandError(code, f"cannot run {name}: {error.strerror}") from None


async def following_progress(client: Client, work: Awaitable[Any]) -> Any:
    """The result of ``work``; meanwhile its progress is shown if there is a terminal to show it on."""
    line = text.ProgressLine()
    try:
        if line.wanted:
            await client.watch(lambda _, values: line.show(*values[:3]), "Progress")
        return await work
    finally:
        line.clear()


def _source_options(arguments: argparse.Namespace) -> dict[str, Variant]:
    options: dict[str, Variant] = {}
    if arguments.source:
        options["sources"] = Variant("as", arguments.source)
    if arguments.refresh:
        options["refresh"] = Variant("b", True)
    return options


async def _headers(client: Client, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    values = [arguments.release, _source_options(arguments)]
    path, details = (await following_progress(client, client.call("GetHeaders", "sa{sv}", values))).values
    return path, plain(details)


async def get(client: Client, arguments: argparse.Namespace) -> int:
    path, details = await _headers(client, arguments)
    if arguments.json:
        text.put_json({"path": path, **details})
    else:
        text.put(path)
    return DONE


async def env(client: Client, arguments: argparse.Namespace) -> int:
    environment: dict[str, str] = {}
    if not (arguments.unless_dropped and await _were_dropped(client, arguments.release)):
        _, details = await _headers(client, arguments)
        environment = details.get("environment", {})
    if arguments.json:
        text.put_json(environment)
    else:
        for name, value in environment.items():
            text.put(text.assignment(arguments.shell, name, value))
    return DONE


async def _were_dropped(client: Client, release: str) -> bool:
    """Whether all that is there of a release is what was precompiled, because somebody wanted it so."""
    release = release or (await client.properties())["RunningRelease"]
    entries = plain((await client.call("ListEntries")).values[0])
    kept = [
        entry.get("headers_kept", True)
        for entry in entries
        if (entry.get("release"), entry.get("kind", "headers")) == (release, "headers")
    ]
    return bool(kept) and not any(kept)


async def prepare_exec(client: Client, arguments: argparse.Namespace) -> Prepared:
    """Acquire headers for the program that is to be run."""
    # Not its arguments, which may have passwords: everybody can read the reasons of leases.
    reason = printable("kheadersctl exec " + os.path.basename(arguments.command[0]))[:_MAX_REASON]
    options = {**_source_options(arguments), "reason": Variant("s", reason)}
    work = client.call("Acquire", "sa{sv}", [arguments.release, options], accept_fds=True)
    answer = await following_progress(client, work)
    _, index, details = answer.values
    return Prepared(arguments.command, plain(details).get("environment", {}), answer.fds[index])


async def export(client: Client, arguments: argparse.Namespace) -> int:
    """Write the headers to stdout, as they come."""
    values = [arguments.release, _source_options(arguments)]
    work = client.call("Export", "sa{sv}", values, accept_fds=True)
    answer = await following_progress(client, work)
    await in_thread(_copy_to_stdout, answer.fds[answer.values[0]])
    return DONE


def _copy_to_stdout(descriptor: int) -> None:
    """
    Raises:
        CommandError: the archive does not end as it should: the service could not read all of the headers.
    """
    try:
        for _ in TarReader(_copied(descriptor), "the archive"):
            pass
    except Corrupt as error:
        hint = "What was written is incomplete. The journal of kheadersd says why; try again."
        raise CommandError(FAILED, f"the archive was cut short: {error.message}", hint) from None
    sys.stdout.buffer.flush()


def _copied(descriptor: int) -> Iterator[bytes]:
    with open(descriptor, "rb", buffering=0) as archive:
        while piece := archive.read(_PIECE):
            sys.stdout.buffer.write(piece)
            yield piece


async def pch(client: Client, arguments: argparse.Namespace) -> int:
    path, flags, details = await get_pch(client, arguments, arguments.profile)
    if arguments.drop_headers and details.get("headers_kept", False):
        why = printable(details.get("why_kept", ""))
        print(f"kheadersctl: the headers stay in the cache{why and f': {why}'}", file=sys.stderr)
    if arguments.json:
        text.put_json({"path": path, "arguments": flags, **details})
    elif arguments.arguments:
        text.put(shlex.join(flags))
    else:
        text.put(path)
    return DONE


async def types(client: Client, arguments: argparse.Namespace) -> int:
    work = client.call("GetTypes", "sa{sv}", [arguments.release, {}])
    path, details = plain((await following_progress(client, work)).values)
    if arguments.json:
        text.put_json({"path": path, **details})
    else:
        text.put(path)
    return DONE


async def get_pch(
    client: Client, arguments: argparse.Namespace, profile: str
) -> tuple[str, list[str], dict[str, Any]]:
    """What GetPch answers: the path, the compiler's arguments, and the details.

    Raises:
        CommandError: as `Client.call`.
    """
    options: dict[str, Variant] = {}
    if arguments.compiler:
        options["compiler"] = Variant("s", arguments.compiler)
    if getattr(arguments, "header", None):
        options["headers"] = Variant("as", arguments.header)
    if getattr(arguments, "drop_headers", False):
        options["keep_headers"] = Variant("b", False)
    if getattr(arguments, "force", False):
        options["force"] = Variant("b", True)
    work = client.call("GetPch", "ssa{sv}", [arguments.release, profile, options])
    path, flags, details = plain((await following_progress(client, work)).values)
    return path, flags, details


async def list_entries(client: Client, arguments: argparse.Namespace) -> int:
    entries = plain((await client.call("ListEntries")).values[0])
    if arguments.json:
        text.put_json(entries)
        return DONE
    if not entries:
        if text.is_terminal():
            text.put("The cache is empty; 'kheadersctl get' fills it.")
        return DONE
    text.put_table(
        ("RELEASE", "WHAT", "SOURCE", "SIZE", "FILES", "MADE", "LAST USED", "PATH"),
        (_entry_row(entry, text.size(entry.get("bytes", 0))) for entry in entries),
        (_entry_row(entry, str(entry.get("bytes", 0))) for entry in entries),
    )
    return DONE


def _entry_row(entry: Mapping[str, Any], size: str) -> tuple[str, ...]:
    return (
        entry.get("release", "-"),
        _what(entry),
        entry.get("source", "-"),
        size,
        str(entry.get("files", "-")),
        text.moment(entry.get("extracted_at", 0)),
        text.moment(entry.get("last_used", 0)),
        entry.get("source_tree", "-"),
    )


def _what(entry: Mapping[str, Any]) -> str:
    """What an entry has, in a word or two."""
    kept = entry.get("kind", "-") if entry.get("headers_kept", True) else ""
    count = entry.get("pch_count", 0)
    return "+".join(filter(None, (kept, f"{count}pch" if count else "")))


async def status(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.json:
        text.put_json(json.loads((await client.call("Describe")).values[0]))
        return DONE
    properties = await client.properties()
    leases = plain((await client.call("ListLeases")).values[0])
    text.put_fields(
        {
            "Version": properties["Version"],
            "Running kernel": properties["RunningRelease"] or "unknown",
            "Headers": await _whereabouts(client) if properties["RunningRelease"] else "unknown",
            "Cache": f"{text.count(properties['EntryCount'], 'entry', 'entries')}, "
            f"{text.size(properties['CacheBytes'])} in {properties['CacheDirectory']}",
            "Module": properties["ModuleState"] + (" (by kheadersd)" if properties["ModuleOwned"] else ""),
            "Activity": properties["Activity"],
            "Leases": str(properties["LeaseCount"]),
            **_last_error(properties["LastError"]),
        }
    )
    for release, owner, uid, pid, reason in leases:
        text.put(printable(f"  {release}  {owner}  user {uid}  process {pid}  {reason}").rstrip())
    return DONE


async def _whereabouts(client: Client) -> str:
    """Where the running kernel's headers are now, in a few words."""
    try:
        path, details = (await client.call("Lookup", "s", [""])).values
    except CommandError as error:
        if error.code != NOT_AVAILABLE:
            raise
        return "none yet; 'kheadersctl get' makes them"
    return f"{path} (from {plain(details).get('source', '?')})"


def _last_error(error: list[str]) -> dict[str, str]:
    name, message = error
    return {"Last error": f"{message} ({name.rpartition('.')[2]})"} if name else {}


async def verify(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.release is None:
        releases = await _cached_releases(client)
    else:
        releases = [arguments.release]
    results = []
    for release in releases:
        try:
            intact, problems = (await client.call("Verify", "sa{sv}", [release, {}])).values
        except CommandError as error:
            if arguments.release is None and error.code == NOT_AVAILABLE:
                continue  # removed since we asked what there is
            raise
        results.append({"release": release, "intact": intact, "problems": list(problems)})
    if arguments.json:
        text.put_json(results)
    else:
        _show_verdicts(results)
    return DONE if all(result["intact"] for result in results) else FAILED


async def _cached_releases(client: Client) -> list[str]:
    entries = plain((await client.call("ListEntries")).values[0])
    return list(dict.fromkeys(entry["release"] for entry in entries))


def _show_verdicts(results: list[dict[str, Any]]) -> None:
    if not results and text.is_terminal():
        text.put("The cache is empty.")
    for result in results:
        verdict = "intact" if result["intact"] else "damaged"
        text.put(printable(f"{result['release'] or 'running kernel'}: {verdict}"))
        for problem in result["problems"]:
            text.put("  " + printable(problem))


async def remove(client: Client, arguments: argparse.Namespace) -> int:
    options = {"force": Variant("b", True)} if arguments.force else {}
    freed = (await client.call("Remove", "sa{sv}", [arguments.release, options])).values[0]
    if arguments.json:
        text.put_json({"bytes_freed": freed})
    else:
        text.put(f"{text.size(freed)} freed")
    return DONE


async def prune(client: Client, arguments: argparse.Namespace) -> int:
    releases, freed = (await client.call("Prune", "a{sv}", [{}])).values
    if arguments.json:
        text.put_json({"releases": list(releases), "bytes_freed": freed})
        return DONE
    for release in releases:
        text.put(f"removed {printable(release)}")
    text.put(f"{text.size(freed)} freed")
    return DONE


async def unload(client: Client, arguments: argparse.Namespace) -> int:
    state = (await client.call("UnloadModule", "a{sv}", [{}])).values[0]
    if arguments.json:
        text.put_json({"module_state": state})
    else:
        text.put(printable(state))
    return DONE


async def monitor(client: Client, arguments: argparse.Namespace) -> int:
    """Show every signal of the service until the bus is lost or somebody has seen enough."""
    broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def show(member: str, values: list[Any]) -> None:
        try:
            _show_signal(member, values, arguments.json)
            sys.stdout.flush()
        except OSError as error:
            if not broken.done():
                broken.set_exception(error)

    await client.watch(show, "EntryAdded", "EntryRemoved", "Progress", "PropertiesChanged")
    await client.properties()  # starts the daemon, or says why there is none
    lost = asyncio.ensure_future(client.lost())
    try:
        await asyncio.wait((lost, broken), return_when=asyncio.FIRST_COMPLETED)
    finally:
        lost.cancel()
    if broken.done():
        broken.result()
    raise CommandError(NO_DAEMON, "the bus went away", f"Wait for it, and see whether {SERVICE} comes back.")


_SIGNALS = {
    "EntryAdded": ("release", "path", "details"),
    "EntryRemoved": ("release", "path", "reason"),
    "Progress": ("release", "stage", "fraction"),
    "PropertiesChanged": ("interface", "changed", "invalidated"),
}


def _show_signal(member: str, values: list[Any], as_json: bool) -> None:
    fields = dict(zip(_SIGNALS[member], values, strict=False))
    if as_json:
        text.put(json.dumps({"time": int(time.time() * 1e6), "signal": member, **fields}))
        return
    words = {
        "EntryAdded": "added {release} {path}",
        "EntryRemoved": "removed {release} {path}: {reason}",
        "Progress": "{release}: {stage} {fraction:.0%}",
        "PropertiesChanged": "{changed}",
    }[member]
    if member == "PropertiesChanged":
        fields["changed"] = ", ".join(f"{name} = {value}" for name, value in fields["changed"].items())
    text.put(time.strftime("%H:%M:%S ") + printable(words.format(**fields)))


COMMANDS: dict[str, Command] = {
    "status": status,
    "get": get,
    "export": export,
    "pch": pch,
    "types": types,
    "list": list_entries,
    "env": env,
    "verify": verify,
    "remove": remove,
    "prune": prune,
    "unload": unload,
    "monitor": monitor,
}
