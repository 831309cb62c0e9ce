"""A guest, as tests use it: commands, files, reboots and power cuts."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
import json
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.vm.machine import Machine, MachineFailed

TIME_LIMIT = 60.0
"""Seconds by the guest's clock for a command, unless it is said otherwise."""

BOOT_LIMIT = 600.0
"""Seconds for a boot; about 30 on a machine with nothing else to do, and minutes on a busy one."""

TIMED_OUT = 124
"""Exit status of a command that was killed because it took too long."""

BROKE_DOWN = "a kernel broke down before anything of ours ran, and was started once more"
BREAKDOWNS: list[str] = []
"""What machines said that ended, or hung when switched on, before their disk was mounted and ours could run.

Once in some hundred starts the emulated kernel breaks down in its own code (seen: an oops in 6.12's
blk_mq_get_tag). Such a start is made once more, and the report names it.
"""

_SLOWNESS = 15  # real seconds that a second of the guest may take
_FILE_LIMIT = 120.0  # seconds
_ANSWER = 2.0  # seconds in which an agent that is there answers


class NoAnswer(Exception):
    """The agent inside the guest did not answer in time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """What came of a command.

    Attributes:
        status: its exit status; minus the number of the signal that ended it; `TIMED_OUT`.
        seconds: how long it took, by the guest's clock.
    """

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def said(self) -> str:
        return f"status {self.status}\n{self.output}{self.errors}"


class Guest:
    """A running guest."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._numbers = itertools.count(1)

    # Starting and ending

    def boot(self) -> None:
        """Switch it on and wait until all of it has started.

        Raises:
            MachineFailed: it did not start within `BOOT_LIMIT`.
        """
        self.machine.start()
        self._wait_until_up()

    def resume(self, state: Path) -> None:
        """Let it go on from where `Machine.save` stopped it, at the present time; takes about a second."""
        self.machine.start(state)
        self._wait_for_agent(BOOT_LIMIT)
        self.check(f"date --set=@{time.time():.3f}")

    def reboot(self) -> None:
        """Restart it in an orderly way and wait until all of it has started."""
        before = self.boot_id()
        self.check("systemctl reboot --no-block")
        deadline = time.monotonic() + BOOT_LIMIT
        while True:
            with contextlib.suppress(NoAnswer):
                if self._ask_quickly() and self.boot_id() != before:
                    break
            if not self.machine.running:
                break
            if time.monotonic() > deadline:
                raise MachineFailed(f"it did not come back: {self.machine.console()[-4000:]}")
            time.sleep(0.2)
        self._wait_until_up()

    def power_off(self) -> None:
        """Shut it down in an orderly way; `boot` starts it again."""
        with contextlib.suppress(NoAnswer):
            self.check("systemctl poweroff --no-block")
        self.machine.wait_for_end(BOOT_LIMIT)
        self.machine.kill()

    def cut_power(self) -> None:
        """End it at once, in the middle of whatever it does; `boot` starts it again."""
        self.machine.kill()

    def boot_id(self) -> str:
        return self.read("/proc/sys/kernel/random/boot_id").decode().strip()

    def _wait_until_up(self) -> None:
        try:
            self._wait_for_agent(BOOT_LIMIT)
        except MachineFailed as error:
            if self.machine.came_to_its_disk:
                raise
            BREAKDOWNS.append(str(error))
            self.machine.kill()
            self.machine.start()
            self._wait_for_agent(BOOT_LIMIT)
        # Fails when a unit has failed: whether that matters is for the tests to say.
        self.run("systemctl is-system-running --wait", timeout=BOOT_LIMIT)

    def _wait_for_agent(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._ask_quickly():
            console = self.machine.console()
            if not self.machine.running or "Kernel panic" in console:
                raise MachineFailed(f"the guest ended: {console[-4000:]}")
            if time.monotonic() > deadline:
                raise MachineFailed(f"no answer in {seconds:g} seconds: {console[-4000:]}")
            time.sleep(0.05)

    def _ask_quickly(self) -> bool:
        try:
            self._ask({"read": "/proc/sys/kernel/random/boot_id"}, _ANSWER)
        except NoAnswer:
            return False
        return True

    # Commands

    def run(
        self,
        command: str | Sequence[str],
        *,
        user: str | None = None,
        timeout: float = TIME_LIMIT,
        data: bytes = b"",
    ) -> Done:
        """Run a command, one at a time, as root unless a user is named.

        Args:
            command: words, or a script for bash.
            timeout: seconds by the guest's clock, after which it and what it started are killed.
            data: its standard input.

        Raises:
            NoAnswer: the guest did not answer at all.
        """
        words = ["bash", "-c", command] if isinstance(command, str) else list(command)
        question = {
            "command": words,
            "user": user,
            "timeout": timeout,
            "input": base64.b64encode(data).decode(),
        }
        answer = self._ask(question, timeout * _SLOWNESS)
        return Done(
            answer["status"],
            base64.b64decode(answer["output"]).decode(errors="replace"),
            base64.b64decode(answer["errors"]).decode(errors="replace"),
            answer["seconds"],
        )

    def check(
        self, command: str | Sequence[str], *, user: str | None = None, timeout: float = TIME_LIMIT
    ) -> str:
        """Run a command that must succeed.

        Returns:
            Its output, without blanks around it.
        """
        done = self.run(command, user=user, timeout=timeout)
        words = command if isinstance(command, str) else shlex.join(command)
        assert done.status == 0, f"{words}: {done.said}"
        return done.output.strip()

    def wait_for(self, condition: str, *, timeout: float = TIME_LIMIT, every: float = 0.3) -> float:
        """Wait until a script succeeds.

        Args:
            every: seconds between two looks. While it looks, its clock goes slower than ours, and what it
                waits for has less of its processor.

        Returns:
            Seconds by the guest's clock.
        """
        done = self.run(
            f"until {{ {condition}\n}} >/dev/null 2>&1; do sleep {every:g}; done", timeout=timeout
        )
        assert done.status == 0, f"not within {timeout:g} seconds: {condition}\n{self.run(condition).said}"
        return done.seconds

    # Files

    def read(self, path: str) -> bytes:
        return base64.b64decode(self._ask({"read": path}, _FILE_LIMIT)["data"])

    def write(self, path: str, data: str | bytes, mode: int = 0o644) -> None:
        """Write a file; directories that are missing are made."""
        data = data.encode() if isinstance(data, str) else data
        text = base64.b64encode(data).decode()
        self._ask({"write": path, "data": text, "mode": mode}, _FILE_LIMIT)

    # The agent

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        number = next(self._numbers)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(seconds)
                connection.connect(str(self.machine.agent))
                # The line before may have broken off.
                connection.sendall(b"\n" + json.dumps({"id": number, **question}).encode() + b"\n")
                answer = next(answer for answer in _answers(connection, seconds) if answer["id"] == number)
        except (OSError, StopIteration) as error:
            raise NoAnswer(f"no answer within {seconds:g} seconds to {str(question)[:200]}") from error
        if "failure" in answer:
            raise MachineFailed(f"{str(question)[:200]}: {answer['failure']}")
        return answer


def _answers(connection: socket.socket, seconds: float) -> Iterator[dict[str, Any]]:
    """Answers as they come, also late ones to questions that nobody waits for any more."""
    deadline = time.monotonic() + seconds
    received = b""
    while time.monotonic() < deadline and (piece := connection.recv(1 << 20)):
        *lines, received = (received + piece).split(b"\n")
        for line in lines:
            with contextlib.suppress(json.JSONDecodeError):  # the end of one that broke off
                answer = json.loads(line)
                if isinstance(answer, dict) and "id" in answer:
                    yield answer
