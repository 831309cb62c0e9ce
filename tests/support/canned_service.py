"""A service of canned answers, for the tests of kheadersctl: the release asked for chooses the answer.

Run as a program with the bus's address; says "ready" on stdout, then a line when a lease ends, when a
call comes that is never answered, and when the properties are read.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from kheadersd import errors
from kheadersd.dbus.codec import Variant, encode
from kheadersd.dbus.connection import Connection
from kheadersd.dbus.objects import Call, Interface, Method, Property, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAME = "org.kheaders.Provide"
PATH = "/org/kheaders/Provide"
TREE = "/var/cache/kheaders/6.1.0-abc/tree"
RANDOMISED = "the structures are in another order\x07"
NASTY = """a'b"c\\d$e`f g\nh"""
FAILURES: dict[str, errors.KheadersError] = {
    "missing": errors.NotAvailable("no source has headers for missing\ntree: nothing\x1b[31m there"),
    "nowhere": errors.NotAvailable(
        "no source has headers for nowhere: tree: there is no /lib/modules/nowhere/build; see: above; "
        "module-file: none; module: none"
    ),
    "uncached": errors.NotCached("nothing is cached"),
    "denied": errors.AccessDenied("you may not"),
    "ask": errors.InteractiveAuthorizationRequired("you may after authenticating"),
    "damaged": errors.Corrupt("the archive is damaged"),
    "invalid": errors.InvalidArgs("that is no release"),
    "full": errors.NoSpace("the disk is full"),
    "used": errors.InUse("somebody uses it"),
    "stuck": errors.ModuleFailed("kheaders is stuck"),
}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def details(call: Call, release: str, environment: dict[str, str]) -> dict[str, Variant]:
    options = call.args[1] if len(call.args) > 1 else {}
    return {
        "release": Variant("s", release or "6.1.0"),
        "source": Variant("s", "sysfs"),
        "source_tree": Variant("s", TREE),
        "build_tree": Variant("s", TREE),
        "fresh": Variant("b", True),
        "environment": Variant("a{ss}", environment),
        "bytes": Variant("t", 46137344),
        "files": Variant("u", 6372),
        "extracted_at": Variant("t", 1_700_000_000_000_000),
        "last_used": Variant("t", 0),
        "x-options": Variant("s", json.dumps({key: value.value for key, value in options.items()})),
        "x-interactive": Variant("b", call.allow_interactive),
        **({"warnings": Variant("as", [RANDOMISED])} if release == "randomised" else {}),
    }


def answer(call: Call) -> tuple[str, dict[str, Variant]]:
    release = call.args[0]
    if release in FAILURES:
        raise FAILURES[release]
    environments = {"tree": {}, "nasty": {"BCC_KERNEL_SOURCE": NASTY}}
    environment = environments.get(release, {"BCC_KERNEL_SOURCE": TREE, "BPFTRACE_KERNEL_SOURCE": TREE})
    return TREE, details(call, release, environment)


def constantly(value: Any) -> Callable[[], Any]:
    return lambda: value


class Service:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.entries: list[str] = ["6.1.0"]
        self.refusal = ""

    async def get_headers(self, call: Call) -> Sequence[Any]:
        if call.args[0] == "forever":
            say("asked")
            await asyncio.Event().wait()
        if call.args[0] == "slow":
            for fraction in (0.25, 0.5):
                self.connection.emit(PATH, NAME, "Progress", "ssd", ["6.1.0", "extracting", fraction])
                await asyncio.sleep(0.05)
        return answer(call)

    def acquire(self, call: Call) -> Reply:
        path, more = answer(call)
        ours, theirs = os.pipe()
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(ours)
            os.close(ours)
            say("lease ended")

        loop.add_reader(ours, ended)
        return Reply(encode("sha{sv}", [path, 0, more]), [theirs])

    def lookup(self, call: Call) -> Sequence[Any]:
        return answer(call)

    def verify(self, call: Call) -> Sequence[Any]:
        if call.args[0] == "broken":
            return [False, ["include/a.h: changed\x07", "include/b.h: missing"]]
        answer(call)
        return [True, []]

    def _call(self, sender: str, name: str) -> Call:
        bus = self.connection
        return Call(sender, PATH, NAME, "", [name], allow_interactive=False, connection=bus)

    def list_entries(self, call: Call) -> Sequence[Any]:
        return [[answer(self._call(call.sender, name))[1] for name in self.entries]]

    def list_leases(self, _: Call) -> Sequence[Any]:
        return [[["6.1.0", ":1.7", 1000, 4242, "tracing\nfor fun"]]]

    def remove(self, call: Call) -> Sequence[Any]:
        answer(call)
        if call.args[1].get("force"):
            return [2048]
        self.connection.emit(PATH, NAME, "EntryRemoved", "sss", [call.args[0], TREE, "on request"])
        self.connection.emit(PATH, NAME, "Progress", "ssd", [call.args[0], "removing", 1.0])
        self.connection.properties_changed(PATH, NAME, ["EntryCount"])
        return [46137344]

    def unload(self, _: Call) -> Sequence[Any]:
        if self.refusal:
            raise FAILURES[self.refusal]
        return ["available"]

    def refuse_to_unload(self, call: Call) -> Sequence[Any]:
        self.refusal = call.args[0]
        return []

    def set_entries(self, call: Call) -> Sequence[Any]:
        self.entries = call.args[0]
        return []

    def interface(self) -> Interface:
        constant: dict[str, tuple[str, Any]] = {
            "Version": ("s", "0.1.0"),
            "RunningRelease": ("s", "6.1.0"),
            "CacheDirectory": ("s", "/var/cache/kheaders"),
            "ModuleState": ("s", "available"),
            "ModuleOwned": ("b", False),
            "Activity": ("s", "idle"),
            "EntryCount": ("u", 1),
            "CacheBytes": ("t", 46137344),
            "LeaseCount": ("u", 1),
        }

        def last_error() -> list[str]:
            say("properties read")
            return ["org.kheaders.Provide.Error.NoSpace", "the disk was full"]

        methods = {
            "GetHeaders": Method("sa{sv}", "sa{sv}", self.get_headers),
            "Acquire": Method("sa{sv}", "sha{sv}", self.acquire),
            "Lookup": Method("s", "sa{sv}", self.lookup),
            "Verify": Method("sa{sv}", "bas", self.verify),
            "ListEntries": Method("", "aa{sv}", self.list_entries),
            "ListLeases": Method("", "a(ssuus)", self.list_leases),
            "Remove": Method("sa{sv}", "t", self.remove),
            "Prune": Method("a{sv}", "ast", lambda _: [["5.10.0"], 1024]),
            "UnloadModule": Method("a{sv}", "s", self.unload),
            "RefuseToUnload": Method("s", "", self.refuse_to_unload),
            "Describe": Method("", "s", lambda _: ['{"version": "0.1.0"}']),
            "SetEntries": Method("as", "", self.set_entries),
        }
        exported = {name: Property(kind, constantly(value)) for name, (kind, value) in constant.items()}
        exported["LastError"] = Property("(ss)", last_error)
        return Interface(NAME, methods, exported, f'<interface name="{NAME}"/>')


async def main(address: str) -> None:
    connection = await Connection.open(address)
    connection.export(PATH, [Service(connection).interface()])
    await connection.request_name(NAME)
    say("ready")
    await connection.closed


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
