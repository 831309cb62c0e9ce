"""Limits hold, and SIGTERM ends the daemon, whatever it waits for does: with real daemons."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.apt_lists import apt_knows
from tests.support.archives import compress, kheaders_files, tree_tar
from tests.support.callers import ask_for_headers, client
from tests.support.clients import wait_until
from tests.support.needs import needs_root
from tests.support.polkit import MutePolkit
from tests.support.precompiling import COMPILERS, is_there
from tests.support.running import INTERFACE, NAME, OBJECT, Bus, Daemon, Refused
from tests.support.served_host import RELEASE, ServedHost

pytestmark = [
    pytest.mark.slow,
    needs_root("namespaces and file systems are made by root"),
]

_LIMIT = 1
_CONFIG = f"""\
[Limits]
ExtractTimeout={_LIMIT}s
DownloadTimeout={_LIMIT}s
CompileTimeout={_LIMIT}s
"""
_NO_LIMITS = "[Limits]\nExtractTimeout=infinity\nDownloadTimeout=infinity\nCompileTimeout=infinity\n"
# The units' sockets, in a /run of the daemon's own.
_IN_NAMESPACE = """\
mount -t tmpfs -o mode=755 tmpfs /run
for name in kheaders-compile kheaders-fetch; do
  touch "/run/$name"
  if [ -S "$0/$name" ]; then mount --bind "$0/$name" "/run/$name"; else rm "/run/$name"; fi
done
exec "$@"
"""


# Units


def _is_mute(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


def _never_reads(connection: socket.socket) -> None:
    connection.recv(1)


def _says_lines(connection: socket.socket) -> None:
    while True:
        connection.sendall(b'{"line": ""}\n' * 1000)


def _says_garbage(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x" * 1000)


class BadUnit:
    """What listens where a unit's socket should be, and never says what it is asked for."""

    def __init__(self, path: Path, does: Callable[[socket.socket], None]) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._does = does
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()
        self.asked = threading.Event()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (self._listening, *self._connections):
            one.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._connections.append(connection)
                self.asked.set()
                thread = threading.Thread(target=self._talk, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._does(connection)


MakeUnit = Callable[[str, Callable[[socket.socket], None]], BadUnit]


@pytest.fixture
def make_unit(tmp_path: Path) -> Iterator[MakeUnit]:
    units: list[BadUnit] = []
    (tmp_path / "units").mkdir()

    def make(name: str, does: Callable[[socket.socket], None]) -> BadUnit:
        units.append(BadUnit(tmp_path / "units" / name, does))
        return units[-1]

    yield make
    for unit in units:
        unit.close()


# A file system that never answers


@contextlib.contextmanager
def hanging_file_system(directory: Path) -> Iterator[None]:
    """A program that looks below the directory hangs in the kernel, as with a server that is away."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
        if libc.mount(b"test", os.fsencode(directory), b"fuse", 0, options):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        yield
    finally:
        os.close(device)  # all that hang get an error
        libc.umount2(os.fsencode(directory), 2)


def hangs(daemon: Daemon, count: int = 1) -> bool:
    """Whether so many threads of the daemon hang in that file system."""
    places = []
    for task in Path(f"/proc/{daemon.pid}/task").iterdir():
        with contextlib.suppress(OSError):
            places.append((task / "wchan").read_text())
    return sum("fuse" in place or "request_wait" in place for place in places) >= count


# Daemons


StartDaemon = Callable[..., Daemon]


@pytest.fixture
def start(bus: Bus, host: ServedHost, tmp_path: Path) -> Iterator[StartDaemon]:
    daemons: list[Daemon] = []
    units = tmp_path / "units"

    def start(config: str, *, wait: bool = True) -> Daemon:
        (tmp_path / "kheadersd.conf").write_text(config)
        prefix = ["unshare", "--mount", "sh", "-ec", _IN_NAMESPACE, str(units)]
        arguments = [f"--config={tmp_path}/kheadersd.conf"]
        log = tmp_path / "log"
        daemons.append(Daemon(bus, host.root, tmp_path / "cache", log, arguments, prefix=prefix))
        daemons[-1].start(wait=wait)
        return daemons[-1]

    yield start
    for daemon in daemons:
        if daemon.process is not None:
            daemon.kill()
        assert daemon.traceback() == ""


@contextlib.contextmanager
def asking(bus: Bus, member: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A caller that waits for the answer to a call."""
    command = ["busctl", f"--address={bus.address}", "--timeout=100", "call", NAME, OBJECT, INTERFACE, member]
    with subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def sigterm_ends(daemon: Daemon) -> None:
    """The daemon's own limit is 5 s; a machine that is busy gets some more."""
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(10) == 0, daemon.log.read_text()
    daemon.process = None


needs_clang = pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang is installed")
GET_PCH = ("GetPch", "ssa{sv}", "", "bpf-core", "0")
GET_HEADERS = ("GetHeaders", "sa{sv}", "", "0")


@needs_clang
@pytest.mark.parametrize("does", [_is_mute, _never_reads, _says_lines, _says_garbage])
def test_a_compile_unit(start: StartDaemon, make_unit: MakeUnit, bus: Bus, does: Callable[..., None]) -> None:
    unit = make_unit("kheaders-compile", does)
    daemon = start(_CONFIG)
    assert not isinstance(bus.call(*GET_HEADERS), Refused)
    answer = bus.call(*GET_PCH)
    assert isinstance(answer, Refused)
    if does is not _says_garbage:
        assert "took longer than" in answer.message
    # Neither a daemon that waits for one answer after the other, nor one that has no limit.
    daemon.kill()
    daemon = start(_NO_LIMITS)
    unit.asked.clear()
    with asking(bus, *GET_PCH):
        assert unit.asked.wait(20)
        assert bus.get("Version")
        sigterm_ends(daemon)


def test_a_download_unit(
    start: StartDaemon, make_unit: MakeUnit, bus: Bus, host: ServedHost, tmp_path: Path
) -> None:
    apt_knows(host.root, host.root / "repository", f"linux-headers-{RELEASE}")
    unit = make_unit("kheaders-fetch", _is_mute)
    daemon = start(_CONFIG.replace("DownloadTimeout=1s", "DownloadTimeout=10s"))
    package = ("GetHeaders", "sa{sv}", "", "1", "sources", "as", "1", "package")
    answer = bus.call(*package)
    assert isinstance(answer, Refused)
    assert "took longer than 10 s" in answer.message
    daemon.kill()
    daemon = start(_NO_LIMITS)
    unit.asked.clear()
    with asking(bus, *package):
        assert unit.asked.wait(60)
        sigterm_ends(daemon)


def test_a_file_system_that_hangs(start: StartDaemon, bus: Bus, host: ServedHost) -> None:
    """A thread hangs in the kernel; the next source is tried, and others are served."""
    build = host.modules / "build"
    build.mkdir()
    with hanging_file_system(build):
        daemon = start(_CONFIG)
        answer = bus.call(*GET_HEADERS)
        assert not isinstance(answer, Refused), "the archive in sysfs is the next source"
        only = bus.call("GetHeaders", "sa{sv}", "", "1", "sources", "as", "1", "tree")
        assert isinstance(only, Refused)
        assert "source tree took longer than 1 s" in only.message
        assert hangs(daemon)
        sigterm_ends(daemon)


def test_more_hang_than_work_at_a_time(start: StartDaemon, bus: Bus, host: ServedHost) -> None:
    """Six callers wait without a limit, and none gives up."""
    with contextlib.ExitStack() as stack:
        for number in range(6):
            build = host.modules.with_name(f"9.9.{number}") / "build"
            build.mkdir(parents=True)
            stack.enter_context(hanging_file_system(build))
        daemon = start(_NO_LIMITS)
        for number in range(6):
            stack.enter_context(asking(bus, "GetHeaders", "sa{sv}", f"9.9.{number}", "0"))
        wait_until(lambda: hangs(daemon, 4))
        assert not isinstance(bus.call(*GET_HEADERS), Refused)
        assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
        sigterm_ends(daemon)


def test_a_cache_that_hangs(start: StartDaemon, tmp_path: Path) -> None:
    """Already at the start."""
    (tmp_path / "cache").mkdir(mode=0o755)
    with hanging_file_system(tmp_path / "cache"):
        daemon = start(_NO_LIMITS, wait=False)
        wait_until(lambda: hangs(daemon))
        sigterm_ends(daemon)


def _chained_links() -> bytes:
    """An archive that is hard work for its size: each link leads to the next."""
    buffer = io.BytesIO(tree_tar(kheaders_files(RELEASE)))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for number in range(60_000):
            link = tarfile.TarInfo(f"./include/linux/l{number}")
            link.type = tarfile.SYMTYPE
            link.linkname = f"l{number + 1}"
            tar.addfile(link)
    return compress(buffer.getvalue(), "xz")


def test_an_extraction_in_its_most_expensive_loop(start: StartDaemon, bus: Bus, host: ServedHost) -> None:
    host.show(_chained_links())
    daemon = start(_CONFIG)
    answer = bus.call(*GET_HEADERS)
    assert isinstance(answer, Refused)
    daemon.kill()
    daemon = start(_NO_LIMITS)
    with asking(bus, *GET_HEADERS) as caller:
        wait_until(lambda: bus.get("Activity") != "idle" or caller.poll() is not None)
        sigterm_ends(daemon)


def test_polkit_that_never_answers(start: StartDaemon, bus: Bus) -> None:
    daemon = start(_NO_LIMITS)
    with MutePolkit(bus) as mute, client(bus.socket, "nobody") as nobody:
        ask_for_headers(nobody)
        mute.wait_for_questions(1)
        sigterm_ends(daemon)


def test_a_bus_that_falls_mute(start: StartDaemon, bus: Bus) -> None:
    daemon = start(_NO_LIMITS)
    with MutePolkit(bus) as mute, client(bus.socket, "nobody") as nobody:
        ask_for_headers(nobody)
        mute.wait_for_questions(1)
        assert bus.process is not None
        bus.process.send_signal(signal.SIGSTOP)
        try:
            sigterm_ends(daemon)
        finally:
            bus.process.send_signal(signal.SIGCONT)
