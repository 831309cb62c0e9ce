"""A real polkitd on a private bus, without systemd, in a mount namespace with our actions alone."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from pathlib import Path
from typing import Self

from kheadersd.dbus import frames as wire
from tests.support.callers import connect
from tests.support.running import REPOSITORY, Bus

POLKITD = Path("/usr/lib/polkit-1/polkitd")
NAME = "org.freedesktop.PolicyKit1"
POLICY = REPOSITORY / "units/org.kheaders.provide.policy"

# polkitd runs as a user of its own, which must be able to read all of it.
_SCRIPT = """\
set -e
for directory in /usr/share/polkit-1/actions /usr/share/polkit-1/rules.d /etc/polkit-1; do
  mount -t tmpfs -o mode=755 tmpfs "$directory"
done
install -d -m 755 /etc/polkit-1/rules.d
install -m 644 "$1" /usr/share/polkit-1/actions/
install -m 644 "$2" /usr/share/polkit-1/rules.d/50-test.rules
exec "$3" --no-debug
"""


@dataclasses.dataclass
class Polkit:
    """A polkitd, and the rules that an administrator has given it.

    Args:
        directory: for its files.
        rules: JavaScript, as in polkit(8); may be changed before each start.
    """

    bus: Bus
    directory: Path
    rules: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        rules = self.directory / "polkit.rules"
        rules.write_text(self.rules)
        with (self.directory / "polkit.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--",
                    "sh",
                    "-c",
                    _SCRIPT,
                    "sh",
                    str(POLICY),
                    str(rules),
                    str(POLKITD),
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address},
            )
        deadline = time.monotonic() + 20
        while self.bus.busctl("status", NAME).returncode:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def log(self) -> str:
        return (self.directory / "polkit.log").read_text()


def rule(action: str, result: str, user: str = "nobody") -> str:
    """A rule that gives a user a result ("yes", "no", "auth_admin") for one action."""
    return (
        "polkit.addRule(function(action, subject) {\n"
        f'  if (action.id == "org.kheaders.provide.{action}" && subject.user == "{user}")\n'
        f'    return "{result}";\n'
        "});\n"
    )


class MutePolkit:
    """Owns polkit's name and reads what it is asked, but says nothing."""

    def __init__(self, bus: Bus) -> None:
        self._caller = connect(bus.socket)
        self.questions: list[tuple[str, bytes]] = []

    def __enter__(self) -> Self:
        assert self._caller.ask_bus("RequestName", "su", [NAME, 4]).values == [1]
        self._caller.socket.settimeout(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._caller.close()

    def give_up_name(self) -> None:
        self._caller.socket.settimeout(20)
        self._caller.ask_bus("ReleaseName", "s", [NAME])

    def look(self) -> None:
        """Take up what was asked meanwhile."""
        try:
            while True:
                kind, fields, body = self._caller.receive()
                if kind == wire.METHOD_CALL:
                    self.questions.append((fields.member, body))
        except TimeoutError:
            return

    def asked(self, member: str = "CheckAuthorization") -> int:
        self.look()
        return len([name for name, _ in self.questions if name == member])

    def wait_for_questions(self, count: int, member: str = "CheckAuthorization") -> None:
        deadline = time.monotonic() + 10
        while self.asked(member) < count:
            assert time.monotonic() < deadline
