"""What everything is measured on: a host below a directory, a bus, the daemon, the floor and the caller."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kheadersd.vmlinux.btf_finder import RUNNING_BTF
from tests.bench.measure import cpu_seconds
from tests.support.running import NAME, REPOSITORY, Bus, Daemon

if TYPE_CHECKING:
    from tests.support.kheaders import RealHeaders

FLOOR = "org.kheaders.Floor"
"""The name of the service in C."""

# A service to compare with, and limits beyond what is measured: a thousand callers of one user are more than
# a distribution's bus lets in.
_LARGE = f"""\
  <policy context="default">
    <allow own="{FLOOR}"/>
    <allow send_destination="{FLOOR}"/>
  </policy>
  <limit name="max_connections_per_user">5000</limit>
  <limit name="max_completed_connections">5000</limit>
"""


@dataclasses.dataclass
class MeasuredDaemon(Daemon):
    """A daemon as a host runs it: nothing but its ordinary log, and it tells when it is ready.

    Attributes:
        ready_wall: seconds from the start of the process to READY=1.
        ready_cpu: processor time until then, seconds.
    """

    ready_wall: float = 0.0
    ready_cpu: float = 0.0

    def start(self, *, wait: bool = True) -> None:
        path = str(self.bus.directory / "notify")
        command = [
            sys.executable,
            "-m",
            "kheadersd",
            f"--root={self.root}",
            f"--cache-directory={self.cache}",
        ]
        environment = {"DBUS_SYSTEM_BUS_ADDRESS": self.bus.address, "NOTIFY_SOCKET": path, **self.environment}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            notify.bind(path)
            notify.settimeout(20)
            try:
                begun = time.perf_counter()
                self.process = subprocess.Popen(
                    [*command, f"--config={os.devnull}", *self.arguments],
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    cwd=REPOSITORY,
                    env={**os.environ, **environment},
                )
                while wait and b"READY=1" not in notify.recv(4096):
                    pass
                self.ready_wall = time.perf_counter() - begun
                self.ready_cpu = cpu_seconds(self.pid)
            except TimeoutError:
                raise RuntimeError(f"kheadersd did not start: {self.log.read_text()}") from None
            finally:
                os.unlink(path)


@dataclasses.dataclass(frozen=True, slots=True)
class Calls:
    """What the caller measured; times in seconds.

    Attributes:
        added: the EntryAdded signals that came meanwhile.
        wall: from the first call to the last answer.
        cpu: the service's processor time in between.
        p50, p99, longest: the time from a call to its answer.
    """

    calls: int
    errors: int
    added: int
    wall: float
    cpu: float
    p50: float
    p99: float
    longest: float


@dataclasses.dataclass(frozen=True)
class Rig:
    """The place of a run. All files are on one file system."""

    directory: Path
    bus: Bus
    release: str
    quick: bool

    @property
    def archive(self) -> Path:
        return self.root / "sys/kernel/kheaders.tar.xz"

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def module_root(self) -> Path:
        """A host whose headers are in the module alone, which is not loaded."""
        return self.directory / "module-root"

    def rounds(self, usual: int) -> int:
        return 1 if self.quick else usual

    def calls(self, usual: int) -> int:
        return usual // 10 if self.quick else usual

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty directory, gone afterwards."""
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        directory.chmod(0o755)
        try:
            yield directory
        finally:
            shutil.rmtree(directory)

    @contextlib.contextmanager
    def daemon(self, root: Path | None = None) -> Iterator[MeasuredDaemon]:
        """A new daemon with an empty cache, of another host than `root` if told so."""
        with self.scratch() as directory:
            daemon = MeasuredDaemon(self.bus, root or self.root, directory / "cache", directory / "log")
            try:
                daemon.start()
                yield daemon
            finally:
                daemon.stop()

    @contextlib.contextmanager
    def floor(self, path: Path) -> Iterator[int]:
        """The service in C, which answers that the headers are at ``path``. Yields its pid."""
        command = [str(self.directory / "floor"), FLOOR, str(path), self.release]
        environment = {**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise RuntimeError("the service in C did not start")
                yield process.pid
            finally:
                process.kill()

    def call(
        self, pid: int, *, name: str = NAME, connections: int = 1, calls: int = 1, profile: str | None = None
    ) -> Calls:
        """Call GetHeaders, or GetPch for a profile; see caller.c.

        Args:
            pid: of the service behind ``name``.
            calls: by all connections together.
        """
        counts = (str(connections), str(calls), str(pid))
        done = subprocess.run(
            [self.directory / "caller", name, self.release, *counts, *([profile] if profile else ())],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "DBUS_SYSTEM_BUS_ADDRESS": self.bus.address},
        )
        return Calls(**json.loads(done.stdout))


@contextlib.contextmanager
def make_rig(parent: Path, headers: RealHeaders, *, quick: bool) -> Iterator[Rig]:
    """Build the programs, lay out the host and start the bus, in a directory of its own below ``parent``."""
    directory = Path(tempfile.mkdtemp(prefix="kheadersd-bench-", dir=parent))
    directory.chmod(0o755)  # compilers are run as another user
    bus = Bus(directory, _LARGE)
    rig = Rig(directory, bus, headers.release, quick)
    try:
        _lay_out_host(rig, headers)
        for program in ("floor", "caller"):
            _build(program, directory)
        bus.start()
        yield rig
    finally:
        bus.stop()
        shutil.rmtree(directory)


def _lay_out_host(rig: Rig, headers: RealHeaders) -> None:
    for root in (rig.root, rig.module_root):
        osrelease = root / "proc/sys/kernel/osrelease"
        osrelease.parent.mkdir(parents=True)
        osrelease.write_text(rig.release + "\n")
        (root / "lib/modules" / rig.release / "kernel").mkdir(parents=True)
    rig.archive.parent.mkdir(parents=True)
    shutil.copyfile(headers.archive, rig.archive)
    shutil.copyfile(headers.module, rig.module_root / "lib/modules" / rig.release / "kernel/kheaders.ko")
    if os.access(f"/{RUNNING_BTF}", os.R_OK):
        (rig.root / RUNNING_BTF).parent.mkdir()
        shutil.copyfile(f"/{RUNNING_BTF}", rig.root / RUNNING_BTF)


def _build(program: str, directory: Path) -> None:
    """Needs gcc and libsystemd-dev."""
    source = Path(__file__).with_name(program + ".c")
    subprocess.run(["gcc", "-O2", "-Wall", "-o", directory / program, source, "-lsystemd"], check=True)
