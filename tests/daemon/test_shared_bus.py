"""A bus that containers share: root of another PID namespace than the daemon's is an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.bus_configuration import bus_configuration
from tests.support.clients import wait_until
from tests.support.needs import needs_root
from tests.support.running import INTERFACE, NAME, OBJECT, REPOSITORY, Bus, Refused
from tests.support.served_host import ServedHost

pytestmark = [pytest.mark.slow, needs_root("it makes PID namespaces")]

_RULES = """\
  <policy context="default">
    <allow user="*"/>
    <allow send_type="method_call"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
"""
_PEER = "org.freedesktop.DBus.Peer"
_POD = 'dbus-daemon --config-file="$1" --nofork & shift; exec "$@"'
_NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
# As process 1, busctl writes its errors to the kernel's log.
_OTHER_POD = (*_NAMESPACE, "sh", "-c", '"$@"; exit', "sh")


class Pod:
    """A bus and a daemon in one PID namespace of their own."""

    def __init__(self, bus: Bus, process: subprocess.Popen[bytes]) -> None:
        self.bus = bus
        self._process = process
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_until(lambda: children.read_text().strip())
        self.inside = ("nsenter", f"--target={children.read_text().strip()}", "--pid", "--")

    def call(self, where: Sequence[str], member: str, signature: str = "", *arguments: str) -> Any:
        """As `Bus.call`, by a process that ``where`` starts."""
        command = [*where, "busctl", f"--address={self.bus.address}", "--json=short", "call"]
        done = subprocess.run(
            [*command, NAME, OBJECT, INTERFACE, member, signature, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Refused(done.stderr.strip()) if done.returncode else json.loads(done.stdout)["data"]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def pod(tmp_path: Path, host: ServedHost) -> Iterator[Pod]:
    bus = Bus(tmp_path)
    (tmp_path / "bus.conf").write_text(bus_configuration(bus.socket, _RULES))
    (tmp_path / "conf").write_text("[Access]\nSharedBus=yes\n[Limits]\nMaxLeasesPerUser=1\n")
    daemon = (sys.executable, "-m", "kheadersd", f"--root={host.root}")
    files = (f"--cache-directory={tmp_path / 'cache'}", f"--config={tmp_path / 'conf'}")
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*_NAMESPACE, "sh", "-c", _POD, "sh", tmp_path / "bus.conf", *daemon, *files],
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": bus.address},
            cwd=REPOSITORY,
            stderr=log,
        )
    made = Pod(bus, process)
    try:
        # busctl's own "status" of a program in another PID namespace fails since systemd 257.
        wait_until(lambda: bus.busctl("call", NAME, OBJECT, _PEER, "Ping").returncode == 0)
        yield made
    finally:
        made.end()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("elsewhere", [(), _OTHER_POD], ids=["host", "other pod"])
def test_root_manages_in_the_pod_of_the_daemon_alone(pod: Pod, elsewhere: Sequence[str]) -> None:
    assert pod.call(elsewhere, "GetHeaders", "sa{sv}", "", "0")[0].endswith("/tree")
    for member, *arguments in (
        ("Remove", "sa{sv}", "", "0"),
        ("Prune", "a{sv}", "0"),
        ("UnloadModule", "a{sv}", "0"),
        ("GetHeaders", "sa{sv}", "", "1", "refresh", "b", "true"),
    ):
        refused = pod.call(elsewhere, member, *arguments)
        assert isinstance(refused, Refused), member
        assert refused.message.endswith("Access denied")
    assert pod.call(pod.inside, "Prune", "a{sv}", "0") == [[], 0]
    assert pod.call(pod.inside, "Remove", "sa{sv}", "", "0")[0] > 0
