"""Who may do what: unprivileged callers, and a real polkitd."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import Variant, encode
from kheadersd.dbus.connection import Connection
from kheadersd.dbus.objects import Call, Interface, Method
from kheadersd.errors import KheadersError
from tests.support.apt_lists import apt_knows
from tests.support.archives import make_kheaders
from tests.support.callers import (
    HEADERS,
    NO_OPTIONS,
    Flood,
    acquire,
    ask_for_headers,
    client,
    connect,
    error,
    frames,
    headers_of,
    unharmed,
)
from tests.support.needs import needs_root
from tests.support.other_user import as_user
from tests.support.polkit import NAME, POLKITD, MutePolkit, Polkit, rule
from tests.support.raw import BUS, HERE, INTERFACE, RawClient, Reply
from tests.support.running import Bus, Daemon, MakeDaemon
from tests.support.served_host import RELEASE, ServedHost

pytestmark = [
    pytest.mark.slow,
    needs_root("other users can only be tried out by root"),
    pytest.mark.skipif(not POLKITD.exists(), reason="polkitd is not installed"),
]

AUTHENTICATE = error("InteractiveAuthorizationRequired")
DENIED = error("AccessDenied")
MANAGING: list[tuple[str, str, list[Any]]] = [
    ("GetHeaders", HEADERS, ["", {"refresh": Variant("b", True)}]),
    ("Acquire", HEADERS, ["", {"refresh": Variant("b", True)}]),
    ("Remove", HEADERS, ["", NO_OPTIONS]),
    ("Remove", HEADERS, ["", {"force": Variant("b", True)}]),
    ("Prune", "a{sv}", [NO_OPTIONS]),
    ("UnloadModule", "a{sv}", [NO_OPTIONS]),
    ("GetPch", "ssa{sv}", ["", "bpf-core", {"headers": Variant("as", ["linux/types.h"])}]),
]
READING: list[tuple[str, str, list[Any]]] = [
    ("Lookup", "s", [""]),
    ("ListEntries", "", []),
    ("ListLeases", "", []),
    ("Describe", "", []),
    ("Verify", HEADERS, ["", NO_OPTIONS]),
    ("GetHeaders", HEADERS, ["", NO_OPTIONS]),
    ("Acquire", HEADERS, ["", {"reason": Variant("s", "a test")}]),
]
MakePolkit = Callable[..., Polkit]


@pytest.fixture
def make_polkit(bus: Bus) -> Iterator[MakePolkit]:
    """Start polkitd with some rules: ``make_polkit(rule(...))``."""
    # polkitd runs as another user, which must be able to reach all this.
    made = Polkit(bus, bus.directory)

    def make(rules: str = "") -> Polkit:
        made.rules = rules
        made.start()
        return made

    yield make
    made.stop()


@pytest.fixture
def nobody(bus: Bus, daemon: Daemon) -> Iterator[RawClient]:
    with client(bus.socket, "nobody") as connected:
        yield connected


def outcome(caller: RawClient, member: str, signature: str, values: list[Any], **keywords: Any) -> str:
    """The name of the error, "" for success."""
    return caller.call(member, signature, values, **keywords).name


def test_every_user_may_read_and_extract(make_polkit: MakePolkit, nobody: RawClient) -> None:
    make_polkit()
    reply = nobody.call("GetHeaders", HEADERS, ["", NO_OPTIONS])
    assert reply.name == ""
    assert reply.values[1]["fresh"].value is True
    assert [outcome(nobody, *call) for call in READING] == [""] * len(READING)
    lease = acquire(nobody, reason=Variant("s", "a test"))
    ((release, _, uid, _, reason),) = nobody.call("ListLeases").values[0]
    os.close(lease)
    assert (release, uid, reason) == (RELEASE, 65534, "a test")


def test_acquire_may_extract_too(make_polkit: MakePolkit, nobody: RawClient) -> None:
    make_polkit()
    assert nobody.call("Acquire", HEADERS, ["", NO_OPTIONS]).values[2]["fresh"].value is True


def test_managing_takes_authentication(bus: Bus, make_polkit: MakePolkit, nobody: RawClient) -> None:
    make_polkit()
    path = bus.call("GetHeaders", "sa{sv}", "", "0")[0]
    assert [outcome(nobody, *call) for call in MANAGING] == [AUTHENTICATE] * len(MANAGING)
    # polkit is prepared to ask, but no user is there to be asked.
    interactive = wire.ALLOW_INTERACTIVE_AUTHORIZATION
    assert [outcome(nobody, *call, flags=interactive) for call in MANAGING] == [DENIED] * len(MANAGING)
    assert bus.call("Lookup", "s", "")[0] == path


def test_busctl_that_allows_to_be_asked(bus: Bus, daemon: Daemon, make_polkit: MakePolkit) -> None:
    make_polkit()
    for allow, expected in (("no", "you must authenticate"), ("yes", "Access denied")):
        done = bus.busctl(
            f"--allow-interactive-authorization={allow}",
            *("call", INTERFACE, HERE.path, INTERFACE, "Prune", "a{sv}", "0"),
            user="nobody",
        )
        assert done.returncode
        assert expected in done.stderr


def test_root_always_may(bus: Bus, daemon: Daemon, make_polkit: MakePolkit) -> None:
    make_polkit(rule("manage", "no", "root") + rule("extract", "no", "root"))
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is True
    assert bus.call("GetHeaders", "sa{sv}", "", "1", "refresh", "b", "true")[1]["fresh"] is True
    assert bus.call("Prune", "a{sv}", "0") == [[], 0]
    assert bus.call("UnloadModule", "a{sv}", "0") == ["builtin"]
    assert bus.call("Remove", "sa{sv}", "", "0")[0] > 0


def test_an_administrators_rules_are_followed(bus: Bus, make_polkit: MakePolkit, nobody: RawClient) -> None:
    make_polkit(rule("manage", "yes") + rule("extract", "no"))
    # What it takes to make headers is another intent than to manage them.
    assert outcome(nobody, *MANAGING[0]) == DENIED
    assert outcome(nobody, "GetHeaders", HEADERS, ["", NO_OPTIONS]) == DENIED
    bus.call("GetHeaders", "sa{sv}", "", "0")
    # For what is there no consent is needed.
    assert outcome(nobody, "GetHeaders", HEADERS, ["", NO_OPTIONS]) == ""
    assert [outcome(nobody, *call) for call in MANAGING[3:5]] == ["", ""]
    assert nobody.call("UnloadModule", "a{sv}", [NO_OPTIONS]).values == ["builtin"]
    assert bus.call("ListEntries") == [[]]


def test_a_rule_that_says_no_is_final(make_polkit: MakePolkit, nobody: RawClient) -> None:
    make_polkit(rule("manage", "no"))
    assert [outcome(nobody, *call) for call in MANAGING] == [DENIED] * len(MANAGING)
    message = nobody.call("Prune", "a{sv}", [NO_OPTIONS]).values[0]
    assert "org.kheaders.provide.manage" in message


def test_bad_arguments_are_refused_before_anybody_is_asked(
    make_polkit: MakePolkit, nobody: RawClient
) -> None:
    make_polkit(rule("manage", "no"))
    invalid = error("InvalidArgs")
    assert outcome(nobody, "Remove", HEADERS, ["../..", NO_OPTIONS]) == invalid
    assert outcome(nobody, "Prune", "a{sv}", [{"force": Variant("b", True)}]) == invalid


def test_a_known_package_takes_authentication(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, make_polkit: MakePolkit, tmp_path: Path
) -> None:
    apt_knows(host.root, tmp_path / "repository", f"linux-headers-{RELEASE}")
    make_daemon(bus, root=host.root)
    polkit = make_polkit()
    options = {"sources": Variant("as", ["package"])}
    with client(bus.socket, "nobody") as nobody:
        refused = nobody.call("GetHeaders", HEADERS, [RELEASE, options])
        assert refused.name == AUTHENTICATE
        assert "org.kheaders.provide.download" in refused.values[0]
        # The other sources do not take it, and are tried first.
        assert outcome(nobody, "GetHeaders", HEADERS, [RELEASE, NO_OPTIONS]) == ""
        polkit.stop()
        assert outcome(nobody, "GetHeaders", HEADERS, [RELEASE, options | {}]) == DENIED
        # After other sources, it is a reason among theirs.
        unknown = nobody.call("GetHeaders", HEADERS, ["9.9.9-none", NO_OPTIONS])
        assert unknown.name == "org.kheaders.Provide.Error.NotAvailable"
        assert "package: " in unknown.values[0]


def test_without_polkit_the_defaults_hold(bus: Bus, nobody: RawClient) -> None:
    assert outcome(nobody, "GetHeaders", HEADERS, ["", NO_OPTIONS]) == ""
    assert [outcome(nobody, *call) for call in READING] == [""] * len(READING)
    assert [outcome(nobody, *call) for call in MANAGING] == [DENIED] * len(MANAGING)
    assert "no polkit runs" in nobody.call("Prune", "a{sv}", [NO_OPTIONS]).values[0]
    assert bus.call("Prune", "a{sv}", "0") == [[], 0]


def test_polkit_that_comes_and_goes(make_polkit: MakePolkit, nobody: RawClient) -> None:
    prune = ("Prune", "a{sv}", [NO_OPTIONS])
    polkit = make_polkit(rule("manage", "yes"))
    assert outcome(nobody, *prune) == ""
    polkit.stop()
    assert outcome(nobody, *prune) == DENIED
    polkit.start()
    assert outcome(nobody, *prune) == ""
    polkit.rules = ""
    polkit.stop()
    polkit.start()
    assert outcome(nobody, *prune) == AUTHENTICATE


def test_polkit_that_is_restarted_while_it_is_asked(
    bus: Bus, host: ServedHost, make_polkit: MakePolkit, nobody: RawClient
) -> None:
    """The next one is asked again."""
    with MutePolkit(bus) as mute:
        serial = ask_for_headers(nobody)
        mute.wait_for_questions(1)
        mute.give_up_name()
        make_polkit()
        assert nobody.call("Lookup", "s", [""]).name != ""
    # The bus tells the daemon that the first one is gone.
    assert nobody.reply(serial).name == ""


# polkit that never answers


def test_polkit_that_never_answers(bus: Bus, daemon: Daemon, nobody: RawClient) -> None:
    """It is given up after a while, and others are served meanwhile."""
    with MutePolkit(bus) as mute, client(bus.socket) as root, client(bus.socket, "nobody") as other:
        started = time.monotonic()
        serial = ask_for_headers(nobody)
        mute.wait_for_questions(1)
        assert outcome(other, "Lookup", "s", [""]) == "org.kheaders.Provide.Error.NotCached"
        assert outcome(other, "ListEntries", "", []) == ""
        # Root needs no polkit.
        assert outcome(root, "GetHeaders", HEADERS, ["", NO_OPTIONS]) == ""
        # And then the headers are there, for which no user needs it.
        assert outcome(other, "GetHeaders", HEADERS, ["", NO_OPTIONS]) == ""
        assert time.monotonic() - started < 10
        refused = nobody.reply(serial)
        took = time.monotonic() - started
        assert refused.name == DENIED
        assert "polkit could not be asked" in refused.values[0]
        assert 10 < took < 60
        mute.wait_for_questions(1, "CancelCheckAuthorization")


@pytest.mark.parametrize("name", ["NameHasNoOwner", "ServiceUnknown", "Spawn.ServiceNotFound"])
async def test_only_the_bus_says_that_there_is_no_polkit(
    bus: Bus, daemon: Daemon, nobody: RawClient, name: str
) -> None:
    """polkit passes on what others have answered it, such as that a name has no owner."""

    class Passed(KheadersError):
        bus_name = error(name)

    def refuse(call: Call) -> None:
        raise Passed("what polkit was told")

    polkit = await Connection.open(bus.address)
    try:
        methods = {"CheckAuthorization": Method("(sa{sv})sa{ss}us", "(bba{ss})", refuse)}
        path, interface = f"/{NAME.replace('.', '/')}/Authority", f"{NAME}.Authority"
        polkit.export(path, [Interface(interface, methods, {}, "")])
        await polkit.request_name(NAME)
        reply = await asyncio.to_thread(nobody.call, "GetHeaders", HEADERS, ["", NO_OPTIONS])
        assert reply.name == DENIED
        assert "what polkit was told" in reply.values[0]
    finally:
        await polkit.close()
    # And what no user may without polkit's word, every user may where there is none.
    assert await asyncio.to_thread(outcome, nobody, "GetHeaders", HEADERS, ["", NO_OPTIONS]) == ""


def test_one_user_cannot_keep_polkit_from_others(
    bus: Bus, daemon: Daemon, nobody: RawClient, tmp_path: Path
) -> None:
    """The bus lets the daemon wait for 128 answers: one user whose agent never answers must not get all."""
    interactive = wire.ALLOW_INTERACTIVE_AUTHORIZATION
    others = [connect(bus.socket, "nobody") for _ in range(24)]
    with (
        MutePolkit(bus) as mute,
        client(bus.socket, "daemon") as another,
        client(bus.socket) as root,
        unharmed(daemon, ready(root)),
    ):
        fields = HERE._replace(member="Prune", signature="a{sv}")
        for caller in others:
            for _ in range(20):
                caller.send(fields, encode("a{sv}", [NO_OPTIONS]), flags=interactive)
        # One question for each connection, and no more than sixteen of one user.
        mute.wait_for_questions(16)
        refused = [caller.next_reply().error_name for caller in others[16:] for _ in range(20)]
        assert refused == [error("LimitsExceeded")] * len(refused)
        assert mute.asked() == 16
        another.send(fields, encode("a{sv}", [NO_OPTIONS]))
        mute.wait_for_questions(17)
        for caller in others:
            caller.close()
        # A caller that leaves gives back its place.
        mute.wait_for_questions(16, "CancelCheckAuthorization")
        assert outcome(nobody, "ListLeases", "", []) == ""


def ready(root: RawClient) -> RawClient:
    """Have the headers made."""
    assert root.call("GetHeaders", HEADERS, ["", NO_OPTIONS]).name == ""
    return root


@pytest.mark.parametrize("answers", [True, False], ids=["refused", "no polkit"])
def test_a_flood_of_what_takes_authorisation(
    bus: Bus, daemon: Daemon, nobody: RawClient, make_polkit: MakePolkit, answers: bool
) -> None:
    if answers:
        make_polkit()
    count = 20_000
    fields, bodies = headers_of("Remove", [""])
    with client(bus.socket) as root, unharmed(daemon, ready(root)) as watch:
        with Flood(nobody, frames(fields, bodies * count)) as flood:
            watch.keep_asking(lambda: not flood.answered(count))
        assert flood.returns == 0
        assert flood.errors == count


# The bus's policy


@pytest.mark.parametrize(
    "changes",
    [
        {"member": "Set", "interface": "org.freedesktop.DBus.Properties"},
        {"member": "Set", "interface": ""},
        {"member": "Nonsense"},
        {"member": "GetPchs"},
        {"member": "Introspect", "path": "/elsewhere", "interface": "org.example.Other"},
        {
            "member": "Set",
            "path": "/org/freedesktop/LogControl1",
            "interface": "org.freedesktop.DBus.Properties",
        },
        {"member": "GetManagedObjects", "interface": "org.freedesktop.DBus.ObjectManager"},
    ],
    ids=lambda changes: "-".join(value.rpartition(".")[2] or "none" for value in changes.values()),
)
def test_what_the_bus_itself_refuses(nobody: RawClient, changes: dict[str, str]) -> None:
    fields = HERE._replace(**changes)  # type: ignore[arg-type]
    refused = nobody.reply(nobody.send(fields))
    assert refused.name == DENIED
    assert "Rejected send message" in refused.values[0]


def test_nobody_can_take_the_name(bus: Bus, nobody: RawClient) -> None:
    assert nobody.ask_bus("RequestName", "su", [INTERFACE, 4]).name == DENIED
    owner = nobody.ask_bus("GetNameOwner", "s", [INTERFACE]).values[0]
    uid = nobody.ask_bus("GetConnectionUnixUser", "s", [owner]).values
    assert uid == [0]


def test_what_every_user_may_without_an_interface(nobody: RawClient) -> None:
    assert nobody.call("GetHeaders", HEADERS, ["", NO_OPTIONS], interface="").name == ""
    assert [outcome(nobody, *call, interface="") for call in READING] == [""] * len(READING)
    assert outcome(nobody, *MANAGING[4], interface="") == DENIED
    assert nobody.call("Ping", interface="") == Reply("", [])
    assert nobody.call("Introspect", interface="").name == ""
    assert nobody.call("GetMachineId", interface="").name != DENIED
    assert nobody.call("Get", "ss", [INTERFACE, "EntryCount"], interface="").values[0].value == 1
    assert nobody.call("GetAll", "s", [INTERFACE], interface="").name == ""


def test_every_user_may_read_properties_and_the_log_level(nobody: RawClient) -> None:
    properties = "org.freedesktop.DBus.Properties"
    values = nobody.call("GetAll", "s", [INTERFACE], interface=properties).values[0]
    assert values["RunningRelease"].value == RELEASE
    level = nobody.call(
        "Get",
        "ss",
        ["org.freedesktop.LogControl1", "LogLevel"],
        interface=properties,
        path="/org/freedesktop/LogControl1",
    )
    assert level.values[0].value == "debug"


def test_a_signal_or_an_answer_that_nobody_asked_for_does_nothing(bus: Bus, nobody: RawClient) -> None:
    owner = nobody.ask_bus("GetNameOwner", "s", [INTERFACE]).values[0]
    body = encode("sss", ["org.freedesktop.PolicyKit1", ":1.1", ""])
    fields = wire.Fields(
        path="/org/freedesktop/DBus", interface=BUS, member="NameOwnerChanged", destination=owner
    )
    nobody.socket.sendall(wire.signal(1000, fields._replace(signature="sss"), body))
    for serial in range(1, 40):
        nobody.socket.sendall(wire.method_return(1000 + serial, serial, owner, "s", encode("s", ["x"])))
    assert outcome(nobody, "ListEntries", "", []) == ""


def test_every_user_can_read_what_is_made_and_none_can_write_it(
    bus: Bus, daemon: Daemon, host: ServedHost, nobody: RawClient
) -> None:
    host.show(make_kheaders(RELEASE))
    path = nobody.call("GetHeaders", HEADERS, ["", NO_OPTIONS]).values[0]
    tree = [str(daemon.cache), "-not", "-path", f"{daemon.cache}/.*"]
    # pytest's own directories above it are private.
    for parent in daemon.cache.parents:
        if parent != Path("/") and parent.stat().st_uid == os.getuid() and not parent.stat().st_mode & 0o011:
            parent.chmod(0o711)
    done = subprocess.run(
        [*as_user("nobody"), "find", *tree, "(", "-writable", "-o", "-not", "-readable", ")"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == done.stderr == ""
    assert Path(path, "include/linux/kconfig.h").stat().st_mode & 0o777 == 0o444
