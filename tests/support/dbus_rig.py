"""A message bus with a small configuration, and the test service on it, with either D-Bus library."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from pathlib import Path

from tests.support.libraries import without_dbus_next
from tests.support.running import REPOSITORY

BUS_RULES = """\
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*" eavesdrop="false"/>
  </policy>
  <limit name="max_message_size">134217728</limit>
  <limit name="max_replies_per_connection">50000</limit>
  <limit name="max_connections_per_user">1000</limit>
"""


@dataclasses.dataclass
class Bus:
    """A dbus-daemon of our own."""

    socket: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"unix:path={self.socket}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclasses.dataclass
class Service:
    """The test service as a process."""

    process: subprocess.Popen[str]
    log: Path
    library: str

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def resident(self) -> int:
        """Resident memory, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("the service is gone")

    def end(self) -> str:
        """Have it end, if it has not; return its last words."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        words = self.process.stdout.read()
        self.process.stdout.close()
        self.process.wait(10)
        return words


def path_for(library: str, tmp_path: Path) -> str:
    """A PYTHONPATH for this project with which the library is the one that gets imported."""
    if library == "dbus_next":
        return str(REPOSITORY)
    return f"{without_dbus_next(tmp_path / 'hidden')}{os.pathsep}{REPOSITORY}"
