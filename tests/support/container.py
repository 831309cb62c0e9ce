"""A container with systemd as PID 1, in which the project is installed as its users install it.

systemd-nspawn runs inside namespaces and a cgroup of its own, so that it needs neither a systemd on this
machine nor a machine whose cgroups are all of version 2. It has D-Bus, polkit, journald, automounts and the
sandboxes of services; it has no udevd, no kernel modules, and nobody's network.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support import debian, package, store
from tests.support.other_user import as_user

# What the package depends on, and an init system.
PACKAGES = (
    "dbus",
    "kmod",
    "polkitd",
    "python3",
    "python3-dbus-next",
    "python3-pyudev",
    "python3-systemd",
    "python3-zstandard",
    "systemd",
    "systemd-sysv",
)

# The outer namespaces get a cgroup hierarchy that begins with the container's own cgroup, and a /run that is
# not this machine's. nspawn looks at /proc/1/cgroup: hence the pid namespace.
_OUTER = """\
echo 0 >"$0/cgroup.procs"
exec unshare --cgroup --mount --pid --fork --mount-proc --kill-child=SIGTERM sh -ec "$INNER" sh "$@"
"""
_INNER = """\
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd /run/lock
exec "$@"
"""
_SIGRTMIN_POWEROFF = signal.SIGRTMIN + 4  # systemd(1)

_DEBS = "/srv/deb"  # where it sees packages that were built

COMPILER = ("clang", "libbpfcc")
"""The packages that are wanted besides, where something is compiled."""

DNF = ("rpm", "dnf", "dnf-plugins-core")
"""The packages that are wanted besides, where dnf is run."""

ZYPPER = ("rpm", "zypper")
"""The packages that are wanted besides, where zypper is run: not beside those of dnf."""

REGISTRY = ("clang", "docker-registry", "gnupg", "skopeo")
"""The packages that are wanted besides, where a registry runs, and precompiled headers are pushed to it."""

PODMAN = ("catatonit", "crun", "podman")
"""The packages that are wanted besides, where podman plays manifests of Kubernetes."""


def base(suite: str, *more: str) -> Path:
    """The root of a suite that containers start from, with more packages if some are named."""
    return debian.root(suite, (*PACKAGES, *more))


def why_not() -> str:
    """What this machine lacks to run containers; empty if nothing."""
    if os.geteuid() != 0:
        return "the tests do not run as root"
    if not Path("/dev/autofs").exists():
        return "there is no /dev/autofs"
    hierarchy = _unified_hierarchy()
    if hierarchy is None or not os.access(hierarchy, os.W_OK):
        return "no cgroup2 hierarchy is mounted here that can be written to"
    return ""


@dataclasses.dataclass
class Container:
    """A running container; whatever it writes is gone when it stops.

    Args:
        name: no other container's.
        directory: for its console log.
        binds: further directories that it sees read-only, by the names it sees them under.
        packages: what is installed in it besides `PACKAGES`.
        suite: what it is of; `_suite`'s if it is empty.
        network: whose network it has; None for one of its own, with loopback only.
    """

    name: str
    directory: Path
    binds: dict[str, Path] = dataclasses.field(default_factory=dict)
    packages: Sequence[str] = ()
    suite: str = ""
    network: Container | None = None
    process: subprocess.Popen[bytes] | None = None
    leader: int = 0

    def start(self) -> None:
        """Start it, and wait until the start of the system is over."""
        self._cgroup.mkdir()
        binds = [
            f"--bind-ro={path}:{name}"
            for name, path in {_DEBS: store.directory(package.KIND), **self.binds}.items()
        ]
        within: list[str] = []
        if self.network is not None:
            within = ["nsenter", f"--net=/proc/{self.network.leader}/ns/net", "--"]
        nspawn = [
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit"),
            *(() if within else ("--private-network",)),
            *("--link-journal=no", "--console=read-only", "--resolv-conf=off", "--timezone=off"),
            *("--volatile=overlay", "--bind=/dev/autofs", *binds),
            f"--directory={base(self.suite or _suite(), *self.packages)}",
            *(f"--machine={self.name}", "--boot"),
        ]
        with self._console.open("wb") as console:
            self.process = subprocess.Popen(
                [
                    *(*within, "unshare", "--mount", "--propagation", "slave", "sh", "-ec", _OUTER),
                    *(str(self._cgroup), *nspawn),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "INNER": _INNER},
            )
        self._wait(lambda: bool(self._find_leader()))
        self._wait(lambda: self.run("test", "-S", "/run/dbus/system_bus_socket").returncode == 0)
        self.run("systemctl", "is-system-running", "--wait")

    def stop(self) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self.leader:
                os.kill(self.leader, _SIGRTMIN_POWEROFF)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.terminate()
            self.process.wait()
        self.process = None
        for directory, _, _ in os.walk(self._cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def run(
        self, *command: str, user: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in it, as root or another user; its output is text, stderr with stdout apart."""
        if user is not None:
            command = (*as_user(user), *command)
        return subprocess.run(
            [
                *("nsenter", "--target", str(self.leader), "--all", "--wdns=/", "--"),
                *("env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8", *command),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def do(self, *command: str, user: str | None = None, timeout: float = 60) -> str:
        """What a command prints that has to succeed, without the space around it."""
        done = self.run(*command, user=user, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def shell(self, script: str, timeout: float = 60) -> str:
        """What a shell script prints that has to succeed."""
        return self.do("sh", "-ec", script, timeout=timeout)

    def install(self, file: Path) -> None:
        """Install a package of `tests.support.package` as its users do: its dependencies are there."""
        name = file.relative_to(store.directory(package.KIND))
        self.apt("install", "--no-install-recommends", f"{_DEBS}/{name}")

    def apt(self, *arguments: str) -> None:
        """Run apt-get, which asks nothing."""
        # The user of its downloads has nothing to look for in root's directories.
        options = ("-qq", "-o", "APT::Sandbox::User=root", "-o", "Dpkg::Use-Pty=0")
        self.do("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *arguments, timeout=180)

    def write(self, path: str, text: str) -> None:
        self.do("sh", "-ec", 'mkdir -p "${1%/*}"; printf %s "$2" >"$1"', "sh", path, text)

    def unit(self, name: str, key: str) -> str:
        """A property of a unit."""
        return self.do("systemctl", "show", "--property", key, "--value", name)

    def wait_for(self, script: str, seconds: float = 20) -> None:
        """Wait until a shell script succeeds."""
        deadline = time.monotonic() + seconds
        while (done := self.run("sh", "-ec", script)).returncode:
            assert time.monotonic() < deadline, f"{script}: {done.stdout}{done.stderr}\n{self.journal()}"
            time.sleep(0.1)

    def journal(self, *arguments: str) -> str:
        return self.run("journalctl", "--no-pager", "--output=short-monotonic", *arguments).stdout[-6000:]

    @property
    def _console(self) -> Path:
        return self.directory / f"{self.name}.console"

    @property
    def _cgroup(self) -> Path:
        hierarchy = _unified_hierarchy()
        assert hierarchy is not None, why_not()
        return hierarchy / self.name

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, self._console.read_text(errors="replace")
            assert time.monotonic() < deadline, self._console.read_text(errors="replace")
            time.sleep(0.05)

    def _find_leader(self) -> int:
        """The container's PID 1; 0 if it is not there yet."""
        for processes in self._cgroup.rglob("cgroup.procs"):
            for pid in _lines(processes):
                if _is_init(pid) and _lines(Path("/proc", pid, "comm")) == ["systemd"]:
                    self.leader = int(pid)
        return self.leader


def _suite() -> str:
    """The suite that containers are of: this machine's, if the environment names no other one."""
    return os.environ.get("KHEADERSD_CONTAINER_SUITE") or debian.suite()


def _is_init(pid: str) -> bool:
    """Whether it is number 1 in a pid namespace below nspawn's, which is below ours."""
    numbers = [line.split()[1:] for line in _lines(Path("/proc", pid, "status")) if line.startswith("NSpid:")]
    return any(len(known) >= 3 and known[-1] == "1" for known in numbers)


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return ()


def _unified_hierarchy() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


@contextlib.contextmanager
def running(
    name: str,
    directory: Path,
    binds: dict[str, Path] | None = None,
    packages: Sequence[str] = (),
    suite: str = "",
    network: Container | None = None,
) -> Iterator[Container]:
    """A container, stopped in the end; where there can be none, tests are skipped."""
    if reason := why_not():
        pytest.skip(f"no containers here: {reason}")
    container = Container(f"kheadersd-{name}-{os.getpid()}", directory, binds or {}, packages, suite, network)
    try:
        container.start()
        yield container
    finally:
        container.stop()
