"""The service, as programs inside the guest see it."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.support.running import INTERFACE, NAME, OBJECT, plain
from tests.vm.guest import Guest

CACHE = "/var/cache/kheaders"
BUILD = "/run/kheaders/build"
UNIT = "kheadersd.service"
MODULE_UNIT = "kheaders-module.service"

CALL_LIMIT = 120.0
"""Seconds: an extraction takes ten to twenty in an emulated machine."""

COMPILE_LIMIT = 900.0
"""Seconds; an emulated machine takes some twenty times as long as this one."""

_LIMITS = "[Limits]\nCompileTimeout=10min\n"


def call(
    guest: Guest, member: str, signature: str = "", *arguments: str, user: str | None = None
) -> list[Any]:
    """Call a method, which must succeed; the values of the answer, without the types of variants."""
    words = [
        "busctl",
        "--system",
        "--json=short",
        f"--timeout={CALL_LIMIT:g}",
        "call",
        NAME,
        OBJECT,
        INTERFACE,
    ]
    text = guest.check([*words, member, signature, *arguments], user=user, timeout=CALL_LIMIT)
    return [plain(value) for value in json.loads(text)["data"]] if text else []


def refusal(guest: Guest, member: str, *arguments: str, user: str | None = None) -> tuple[str, str]:
    """Call a method, which must fail; the arguments are written as gdbus(1) has them.

    Returns:
        The error's name without what all of the service's names begin with, and its message.
    """
    target = ["gdbus", "call", "--system", f"--dest={NAME}", f"--object-path={OBJECT}"]
    words = [*target, f"--timeout={CALL_LIMIT:g}", f"--method={INTERFACE}.{member}", *arguments]
    done = guest.run(words, user=user, timeout=CALL_LIMIT)
    found = re.match(r"Error: GDBus\.Error:([\w.]+): (.*)", done.errors, re.DOTALL)
    assert done.status != 0, f"{member} did not fail: {done.said}"
    assert found is not None, done.said
    return found[1].removeprefix(f"{NAME}.Error."), found[2].strip()


def property_of(guest: Guest, name: str) -> Any:
    text = guest.check(["busctl", "--system", "--json=short", "get-property", NAME, OBJECT, INTERFACE, name])
    return json.loads(text)["data"]


def get_headers(guest: Guest, *sources: str, user: str | None = None) -> tuple[str, dict[str, Any]]:
    """`GetHeaders` for the running kernel; the path, and the details."""
    options = ["1", "sources", "as", str(len(sources)), *sources] if sources else ["0"]
    path, details = call(guest, "GetHeaders", "sa{sv}", "", *options, user=user)
    return path, details


def forget(guest: Guest) -> None:
    """Remove the running kernel's entry, as an administrator would."""
    call(guest, "Remove", "sa{sv}", "", "1", "force", "b", "true")


def give_compilers_time(guest: Guest) -> None:
    """Let the daemon wait for compilers as long as they need in an emulated machine."""
    guest.write("/etc/kheadersd.conf.d/50-emulated.conf", _LIMITS)
    guest.check(f"systemctl reload-or-restart {UNIT}")


def start_getting(guest: Guest, *sources: str) -> None:
    """Ask for headers of the running kernel without waiting for the answer: it goes to /tmp/answer."""
    listed = "', '".join(sources)
    options = f"{{'sources': <['{listed}']>}}" if sources else "@a{sv} {}"
    guest.check(
        f"rm -f /tmp/answer /tmp/answer.new; ( gdbus call --system --dest={NAME} --object-path={OBJECT} "
        f"--timeout={CALL_LIMIT:g} --method={INTERFACE}.GetHeaders '' \"{options}\" >/tmp/answer.new 2>&1; "
        "mv /tmp/answer.new /tmp/answer ) </dev/null >/dev/null 2>&1 &"
    )


def answer(guest: Guest) -> str:
    """What came of `start_getting`."""
    guest.wait_for("test -e /tmp/answer", timeout=CALL_LIMIT)
    return guest.read("/tmp/answer").decode().strip()


def main_pid(guest: Guest) -> int:
    return int(guest.check(f"systemctl show -P MainPID {UNIT}"))


def entries(guest: Guest, message_id: str) -> list[dict[str, Any]]:
    """The entries of the journal with a MESSAGE_ID, of this boot, the oldest first."""
    shown = guest.check(f"journalctl --boot --output=json --no-pager MESSAGE_ID={message_id} || true")
    return [json.loads(line) for line in shown.splitlines()]


def module_is_loaded(guest: Guest) -> bool:
    return guest.run("test -d /sys/module/kheaders").status == 0
