"""Real daemons on real buses, for the tests that look from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus_configuration import bus_configuration
from tests.support.other_user import as_user

REPOSITORY = Path(__file__).resolve().parents[2]
NAME = INTERFACE = "org.kheaders.Provide"
OBJECT = "/org/kheaders/Provide"

# What a distribution's system.conf says, with the limits of Debian's dbus 1.14, and the project's policy.
_BUS_RULES = """\
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.PolicyKit1"/>
  </policy>
  <policy user="root">
    <allow own="org.freedesktop.PolicyKit1"/>
  </policy>
  <policy user="polkitd">
    <allow own="org.freedesktop.PolicyKit1"/>
  </policy>
  {more}
  <include>{policy}</include>
"""
_GENEROUS = '<limit name="max_replies_per_connection">200000</limit>'


@dataclasses.dataclass
class Bus:
    """A message bus of its own, with the project's policy.

    Attributes:
        more: what its configuration has besides, in XML.
    """

    directory: Path
    more: str = ""
    process: subprocess.Popen[str] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "bus"

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"

    def start(self) -> None:
        config = self.directory / "bus.conf"
        policy = REPOSITORY / "dbus-policy" / "org.kheaders.Provide.conf"
        config.write_text(bus_configuration(self.socket, _BUS_RULES.format(policy=policy, more=self.more)))
        self.process = subprocess.Popen(
            ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "dbus-daemon did not start"

    def stop(self) -> None:
        if self.process is not None:
            assert self.process.stdout is not None
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None
            self.socket.unlink(missing_ok=True)

    def busctl(self, *arguments: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run busctl on this bus; as another user with ``user``."""
        command = ["busctl", f"--address={self.address}", "--timeout=120", *arguments]
        if user is not None:
            command = [*as_user(user), *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)

    def call(self, member: str, signature: str = "", *arguments: str, user: str | None = None) -> Any:
        """Call a method of the service.

        Returns:
            The values of the answer as busctl's JSON has them; or a `Refused`.
        """
        done = self.busctl(
            "--json=short", "call", NAME, OBJECT, INTERFACE, member, signature, *arguments, user=user
        )
        if done.returncode:
            return Refused(done.stderr.strip().removeprefix("Call failed: "))
        return [plain(value) for value in json.loads(done.stdout)["data"]] if done.stdout else []

    def get(self, name: str) -> Any:
        """A property of the service."""
        done = self.busctl("--json=short", "get-property", NAME, OBJECT, INTERFACE, name)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)["data"]


@dataclasses.dataclass(frozen=True)
class Refused:
    """The message of an error; busctl does not tell its name."""

    message: str


def plain(value: Any) -> Any:
    """busctl's JSON without the types of variants."""
    if isinstance(value, dict):
        if set(value) == {"type", "data"}:
            return plain(value["data"])
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


@dataclasses.dataclass
class Daemon:
    """A kheadersd in a process of its own.

    Attributes:
        prefix: a command that becomes the daemon.
        patience: seconds that a start or an end may take.
    """

    bus: Bus
    root: Path
    cache: Path
    log: Path
    arguments: Sequence[str] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    prefix: Sequence[str] = ()
    patience: float = 20
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, wait: bool = True) -> None:
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "kheadersd",
            f"--root={self.root}",
            f"--cache-directory={self.cache}",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--debug", f"--config={os.devnull}", *self.arguments],
                stderr=log,
                cwd=REPOSITORY,
                env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address, **self.environment},
            )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.patience
        while self._owner_missing() != "0":
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def _owner_missing(self) -> str:
        return str(self.bus.busctl("status", NAME).returncode)

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """End it as the service manager would.

        Returns:
            Its exit status.
        """
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGCONT)  # a test that failed may have left it standing still
        try:
            status = self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.process = None
        return status

    def traceback(self) -> str:
        """What the log has of the first error that nobody was prepared for, and a little before it."""
        before, found, after = self.log.read_text(errors="replace").partition("Traceback")
        return before[-1000:] + found + after[:4000] if found else ""

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self, what: str = "VmRSS") -> int:
        """Resident memory in bytes; with "VmHWM" its peak."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
        raise AssertionError(what)

    def leftovers(self) -> list[str]:
        """What is in the cache directory and is no entry; what is being removed is given a moment."""
        deadline = time.monotonic() + 5
        while True:
            names = [path.name for path in self.cache.iterdir()]
            left = sorted(name for name in names if name.startswith((".staging", ".trash")))
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.02)

    def entries(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if not path.name.startswith("."))


MakeDaemon = Callable[..., Daemon]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    """A bus with the limits of a distribution."""
    yield from _running_bus(tmp_path)


@pytest.fixture
def generous_bus(tmp_path: Path) -> Iterator[Bus]:
    """A bus that lets one caller have any number of calls in flight."""
    yield from _running_bus(tmp_path, _GENEROUS)


def _running_bus(tmp_path: Path, more: str = "") -> Iterator[Bus]:
    directory = tmp_path / "bus"
    directory.mkdir()
    for parent in (directory, *directory.parents):
        # Other users must be able to reach the socket below pytest's private directories.
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            with contextlib.suppress(PermissionError):
                parent.chmod(parent.stat().st_mode | 0o711)
    running = Bus(directory, more)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[MakeDaemon]:
    """Start daemons: ``make_daemon(bus, root=..., cache=..., arguments=[...])``.

    They are stopped afterwards, and none may have met an error that it was not prepared for.
    """
    daemons: list[Daemon] = []

    def make(bus: Bus, **keywords: Any) -> Daemon:
        root = keywords.pop("root", tmp_path / "root")
        root.mkdir(exist_ok=True)
        cache = keywords.pop("cache", tmp_path / "cache")
        log = tmp_path / f"daemon{len(daemons)}.log"
        daemon = Daemon(bus, root, cache, log, **keywords)
        daemons.append(daemon)
        daemon.start()
        return daemon

    yield make
    for daemon in daemons:
        assert daemon.stop() == 0, daemon.log.read_text()
        assert daemon.traceback() == ""
